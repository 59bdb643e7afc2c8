//! Metadata and identity as the SDKs meet them: IMDS on the nodes' addresses, roles of instances and of pods (ebs.md §2.3, efs.md §2).

use std::process::Command;
use std::time::Duration;

use ebbtide_tests::{Ebbtide, root, text, wait_for};
use serde_json::Value;

/// The node's row of `ebbtide node ls -o json`.
fn node(ebbtide: &Ebbtide, index: usize) -> Value {
    let output = ebbtide.ebbtide(&["node", "ls", "-o", "json"]);
    let nodes: Value = serde_json::from_slice(&output.stdout).expect("JSON of node ls");
    nodes[index].clone()
}

fn endpoint<'a>(node: &'a Value, whose: &str) -> &'a str {
    node["metadata"][whose].as_str().expect("an address of the metadata service")
}

const PRELUDE: &str = r#"
import boto3, botocore, json, os, sys, time, urllib.request, urllib.error
import botocore.session
from botocore.exceptions import ClientError
from botocore.utils import InstanceMetadataFetcher, InstanceMetadataRegionFetcher
config = botocore.config.Config(retries={'max_attempts': 1})
base, other, pods = (os.environ[n] for n in ('NODE', 'OTHER', 'PODS'))
def http(method, url, timeout=10, **headers):
    request = urllib.request.Request(url, method=method, headers={k.replace('_', '-'): str(v) for k, v in headers.items()})
    try:
        with urllib.request.urlopen(request, timeout=timeout) as answer:
            return answer.status, answer.read().decode(), answer.headers
    except urllib.error.HTTPError as e:
        return e.code, e.read().decode(), e.headers
def token(base, ttl=60):
    status, text, _ = http('PUT', base + '/latest/api/token', X_aws_ec2_metadata_token_ttl_seconds=ttl)
    assert status == 200, (status, text)
    return text
def get(path, base=base):
    return http('GET', base + path, X_aws_ec2_metadata_token=token(base))[:2]
def fails(code, call, **args):
    try:
        call(**args)
    except ClientError as e:
        assert e.response['Error']['Code'] == code, e.response['Error']
        return e.response['Error']['Message']
    raise AssertionError('no error, expected ' + code)
def until(what, condition):
    end = time.time() + 20
    while not condition():
        assert time.time() < end, 'waited for ' + what
        time.sleep(0.05)
"#;

/// A Python program that has only the metadata service to learn from: no keys, no region.
fn python(ebbtide: &Ebbtide, program: &str, env: &[(&str, &str)]) {
    let (first, second) = (node(ebbtide, 0), node(ebbtide, 1));
    let mut command: Command = ebbtide.command("python");
    for name in ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_EC2_METADATA_DISABLED", "AWS_REGION", "AWS_DEFAULT_REGION"] {
        command.env_remove(name);
    }
    command
        .env("AWS_EC2_METADATA_SERVICE_ENDPOINT", endpoint(&first, "node"))
        .env("NODE", endpoint(&first, "node"))
        .env("PODS", endpoint(&first, "pods"))
        .env("OTHER", endpoint(&second, "node"))
        .env("INSTANCE", first["instanceId"].as_str().expect("an instance"))
        .envs(env.iter().copied());
    let output = command.arg("-c").arg(format!("{PRELUDE}\n{program}")).output().expect("running python (make test installs it)");
    assert!(output.status.success(), "{}\n{}", text(&output), ebbtide.log());
}

#[test]
fn an_instance_learns_who_and_where_it_is() {
    if !root() {
        return;
    }
    let mut ebbtide = Ebbtide::up(&[]);
    python(
        &ebbtide,
        r#"
instance = os.environ['INSTANCE']
# What the drivers read when they start.
assert get('/latest/meta-data/instance-id') == (200, instance)
document = json.loads(get('/latest/dynamic/instance-identity/document')[1])
assert (document['instanceId'], document['instanceType'], document['region'], document['availabilityZone']) == \
    (instance, 'm5.large', 'us-east-1', 'us-east-1a'), document
status, macs = get('/latest/meta-data/network/interfaces/macs')
assert status == 200 and len(macs.split('\n')) == 1 and macs.endswith('/'), macs
status, mapping = get('/latest/meta-data/block-device-mapping')
assert status == 200 and mapping.count('ebs') == 0 and 'root' in mapping.split('\n'), mapping
status, page = get('/latest/meta-data/outpost-arn')
assert status == 404 and '<h1>404 - Not Found</h1>' in page and 'xhtml1-transitional' in page, page

# The same as EC2 says.
ec2 = boto3.client('ec2', region_name='us-east-1', aws_access_key_id='test', aws_secret_access_key='test')
shown = ec2.describe_instances(InstanceIds=[instance])['Reservations'][0]['Instances'][0]
nic = shown['NetworkInterfaces'][0]
assert macs == nic['MacAddress'] + '/'
of_nic = lambda path: get('/latest/meta-data/network/interfaces/macs/' + macs + path)[1]
assert (of_nic('interface-id'), of_nic('subnet-id'), of_nic('vpc-id'), of_nic('local-ipv4s')) == \
    (nic['NetworkInterfaceId'], nic['SubnetId'], nic['VpcId'], nic['PrivateIpAddress'])
assert of_nic('security-group-ids') == nic['Groups'][0]['GroupId'] and document['imageId'] == shown['ImageId']
assert shown['IamInstanceProfile']['Arn'] == json.loads(get('/latest/meta-data/iam/info')[1])['InstanceProfileArn']

# Tokens.
assert http('PUT', base + '/latest/api/token')[0] == 400
assert http('PUT', base + '/latest/api/token', X_aws_ec2_metadata_token_ttl_seconds=21601)[0] == 400
assert http('PUT', base + '/latest/api/token', X_aws_ec2_metadata_token_ttl_seconds=60, X_Forwarded_For='10.0.0.1')[0] == 403
path = '/latest/meta-data/instance-id'
status, page, _ = http('GET', base + path)
assert status == 401 and '<title>401 - Unauthorized</title>' in page, page
assert http('GET', base + path, X_aws_ec2_metadata_token=token(other))[0] == 401
short = token(base, 1)
until('a token to expire', lambda: http('GET', base + path, X_aws_ec2_metadata_token=short)[0] == 401)
status, _, headers = http('GET', base + path, X_aws_ec2_metadata_token=token(base, 600))
assert status == 200 and headers['Server'] == 'EC2ws' and 1 <= int(headers['X-aws-ec2-metadata-token-ttl-seconds']) <= 600

# botocore's own readers.
settings = {'ec2_metadata_service_endpoint': base, 'ec2_metadata_service_endpoint_mode': None, 'ec2_metadata_v1_disabled': None}
assert InstanceMetadataRegionFetcher(timeout=5, config=settings).retrieve_region() == 'us-east-1'
found = InstanceMetadataFetcher(timeout=5, config=settings).retrieve_iam_role_credentials()
assert found['role_name'] == 'ebbtide-node' and found['access_key'].startswith('ASIA') and len(found['access_key']) == 20, found
"#,
        &[],
    );
    let (first, name) = (node(&ebbtide, 0), ebbtide.nodes()[0].clone());
    let said = ebbtide.ebbtide(&["node", "exec", &name, "--", "sh", "-c", "echo $AWS_EC2_METADATA_SERVICE_ENDPOINT"]);
    assert_eq!(String::from_utf8_lossy(&said.stdout).trim(), endpoint(&first, "node"), "{}", text(&said));
    let status: Value = serde_json::from_slice(&ebbtide.ebbtide(&["status", "-o", "json"]).stdout).expect("JSON of status");
    assert_eq!(status["nodeProcesses"][0]["metadata"], first["metadata"]);

    // Pods have the address two hops away, those in the node's network the node's own.
    for (pod, host_network, whose) in [("far", false, "pods"), ("near", true, "node")] {
        let manifest = format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: {pod}}}\nspec:\n  nodeName: {name}\n  hostNetwork: {host_network}\n  restartPolicy: Never\n  \
             containers:\n  - name: c\n    image: busybox\n    command: [sh, -c, 'echo $AWS_EC2_METADATA_SERVICE_ENDPOINT']\n"
        );
        ebbtide.kubectl_with(&["apply", "-f", "-"], &manifest);
        ebbtide.kubectl(&["wait", "--for=jsonpath={.status.phase}=Succeeded", &format!("pod/{pod}"), "--timeout=60s"]);
        assert_eq!(ebbtide.kubectl(&["logs", pod]).trim(), endpoint(&first, whose), "{pod}");
    }

    // The address outlives a restart, and so does a token.
    ebbtide.down();
    ebbtide.start();
    assert_eq!(node(&ebbtide, 0)["metadata"], first["metadata"]);
}

#[test]
fn options_of_the_service_are_changed_as_on_ec2() {
    if !root() {
        return;
    }
    let ebbtide = Ebbtide::up(&[]);
    python(
        &ebbtide,
        r#"
ec2 = boto3.client('ec2', region_name='us-east-1', aws_access_key_id='test', aws_secret_access_key='test', config=config)
instance = os.environ['INSTANCE']
def options():
    return ec2.describe_instances(InstanceIds=[instance])['Reservations'][0]['Instances'][0]['MetadataOptions']
def modify(**change):
    answer = ec2.modify_instance_metadata_options(InstanceId=instance, **change)
    assert answer['InstanceId'] == instance and answer['InstanceMetadataOptions']['State'] == 'pending', answer
    until('the change to be applied', lambda: options()['State'] == 'applied')
    now = options()
    assert all(now[k] == v for k, v in change.items()), (now, change)
assert options() == {'State': 'applied', 'HttpTokens': 'required', 'HttpPutResponseHopLimit': 2, 'HttpEndpoint': 'enabled',
    'HttpProtocolIpv6': 'disabled', 'InstanceMetadataTags': 'disabled'}, options()
call = ec2.modify_instance_metadata_options
fails('InvalidParameterValue', call, InstanceId=instance, HttpPutResponseHopLimit=65)
fails('InvalidParameterValue', call, InstanceId=instance, HttpTokens='maybe')
fails('InvalidInstanceID.NotFound', call, InstanceId='i-0123456789abcdef0', HttpTokens='optional')
fails('InvalidInstanceID.Malformed', call, InstanceId='nonsense', HttpTokens='optional')
fails('MissingParameter', call, InstanceId=instance)
fails('DryRunOperation', call, InstanceId=instance, HttpTokens='optional', DryRun=True)
assert options()['HttpTokens'] == 'required'

path = '/latest/meta-data/instance-id'
assert http('GET', base + path)[0] == 401
modify(HttpTokens='optional')
assert http('GET', base + path)[:2] == (200, instance)
found = ec2.describe_instances(Filters=[{'Name': 'metadata-options.http-tokens', 'Values': ['optional']}])['Reservations']
assert [r['Instances'][0]['InstanceId'] for r in found] == [instance], found

# One hop: the pods wait for their token until they give up, and botocore finds no credentials there.
assert http('GET', pods + path, X_aws_ec2_metadata_token=token(pods))[0] == 200
modify(HttpPutResponseHopLimit=1, HttpTokens='required')
try:
    http('PUT', pods + '/latest/api/token', timeout=0.5, X_aws_ec2_metadata_token_ttl_seconds=60)
    raise AssertionError('the answer arrived')
except (TimeoutError, urllib.error.URLError) as e:
    assert 'timed out' in str(e), e
settings = {'ec2_metadata_service_endpoint': pods, 'ec2_metadata_service_endpoint_mode': None, 'ec2_metadata_v1_disabled': None}
assert InstanceMetadataFetcher(timeout=0.5, config=settings).retrieve_iam_role_credentials() == {}
assert get(path) == (200, instance)
modify(HttpPutResponseHopLimit=2)
assert InstanceMetadataFetcher(timeout=5, config=settings).retrieve_iam_role_credentials()['role_name'] == 'ebbtide-node'

modify(HttpEndpoint='disabled')
assert http('GET', base + path)[0] == 403 and http('PUT', base + '/latest/api/token', X_aws_ec2_metadata_token_ttl_seconds=60)[0] == 403
assert get(path, other)[0] == 200
modify(HttpEndpoint='enabled')

# Tags.
assert get('/latest/meta-data/tags/instance')[0] == 404
modify(InstanceMetadataTags='enabled')
ec2.create_tags(Resources=[instance], Tags=[{'Key': 'team', 'Value': 'storage'}])
assert get('/latest/meta-data/tags/instance/team') == (200, 'storage')
assert 'is not a valid tag key' in fails('InvalidParameterValue', ec2.create_tags, Resources=[instance], Tags=[{'Key': 'a/b', 'Value': ''}])
"#,
        &[],
    );
}

#[test]
fn a_volume_shows_in_the_mapping_after_the_instances_next_start() {
    if !root() {
        return;
    }
    let ebbtide = Ebbtide::up(&[]);
    let (first, name) = (node(&ebbtide, 0), ebbtide.nodes()[0].clone());
    let instance = first["instanceId"].as_str().expect("an instance");
    let volume = ebbtide.aws(&["ec2", "create-volume", "--size", "1", "--availability-zone", "us-east-1a"]);
    let id = volume["VolumeId"].as_str().expect("a volume");
    ebbtide.aws(&["ec2", "wait", "volume-available", "--volume-ids", id]);
    ebbtide.aws(&["ec2", "attach-volume", "--volume-id", id, "--instance-id", instance, "--device", "/dev/xvdaa"]);
    ebbtide.aws(&["ec2", "wait", "volume-in-use", "--volume-ids", id]);
    let mapping = "status, mapping = get('/latest/meta-data/block-device-mapping')\n";
    python(&ebbtide, &format!("{mapping}assert (status, mapping) == (200, 'ami\\nroot'), mapping"), &[]);
    for verb in ["kill", "start"] {
        let output = ebbtide.ebbtide(&["node", verb, &name]);
        assert!(output.status.success(), "{}", text(&output));
    }
    wait_for("the node to run", Duration::from_secs(30), || node(&ebbtide, 0)["pid"].is_number());
    python(
        &ebbtide,
        "until('the mapping', lambda: get('/latest/meta-data/block-device-mapping') == (200, 'ami\\nebs1\\nroot'))\n\
         assert get('/latest/meta-data/block-device-mapping/ebs1') == (200, 'xvdaa')",
        &[],
    );
    ebbtide.aws(&["ec2", "detach-volume", "--volume-id", id]);
    ebbtide.aws(&["ec2", "wait", "volume-available", "--volume-ids", id]);
    ebbtide.aws(&["ec2", "delete-volume", "--volume-id", id]);
}

#[test]
fn credentials_of_the_instance_are_accepted_where_signatures_are_checked() {
    if !root() {
        return;
    }
    let ebbtide = Ebbtide::up(&["--auth", "verify"]);
    python(
        &ebbtide,
        r#"
# Nothing is configured: botocore's chain ends at the instance.
session = boto3.Session(region_name='us-east-1')
assert session.get_credentials().method == 'iam-role'
ec2, sts, efs = (session.client(s, config=config) for s in ('ec2', 'sts', 'efs'))
assert ec2.describe_volumes()['Volumes'] == [] and efs.describe_file_systems()['FileSystems'] == []
who = sts.get_caller_identity()
assert who['Arn'] == 'arn:aws:sts::000000000000:assumed-role/ebbtide-node/' + os.environ['INSTANCE'], who
keys = session.get_credentials().get_frozen_credentials()
def client(service, **keys):
    names = {'access': 'aws_access_key_id', 'secret': 'aws_secret_access_key', 'token': 'aws_session_token'}
    return boto3.client(service, region_name='us-east-1', config=config, **{names[k]: v for k, v in keys.items()})
wrong = dict(access=keys.access_key, secret=keys.secret_key, token=keys.token[:-8] + 'AAAAAAA=')
fails('InvalidClientTokenId', client('sts', **wrong).get_caller_identity)
fails('AuthFailure', client('ec2', access=keys.access_key, secret=keys.secret_key).describe_volumes)
fails('SignatureDoesNotMatch', client('ec2', access=keys.access_key, secret='x', token=keys.token).describe_volumes)
assumed = sts.assume_role(RoleArn='arn:aws:iam::000000000000:role/efs', RoleSessionName='test')['Credentials']
as_role = client('sts', access=assumed['AccessKeyId'], secret=assumed['SecretAccessKey'], token=assumed['SessionToken'])
assert as_role.get_caller_identity()['Arn'] == 'arn:aws:sts::000000000000:assumed-role/efs/test'
"#,
        &[],
    );
}

/// A world in which the pods of `default/agent` have a role.
const WORLD: &str =
    "podIdentityAssociations:\n- {namespace: default, serviceAccount: agent, roleArn: \"arn:aws:iam::000000000000:role/path/agent\"}\n";

fn token(ebbtide: &Ebbtide, account: &str, audience: &str) -> String {
    ebbtide.kubectl(&["create", "token", account, "--audience", audience]).trim().to_owned()
}

#[test]
fn service_accounts_have_roles() {
    let dir = tempfile::tempdir().expect("a directory");
    let world = dir.path().join("world.yaml");
    std::fs::write(&world, WORLD).expect("writing the world");
    let ebbtide = Ebbtide::up(&["--no-nodes", "--auth", "verify", "--world", world.to_str().expect("UTF-8")]);
    for account in ["app", "agent"] {
        ebbtide.kubectl(&["create", "serviceaccount", account]);
    }
    // Tokens as on any cluster: bounds, discovery, review.
    let refused = text(&ebbtide.try_kubectl(&["create", "token", "app", "--duration", "1m"]));
    assert!(refused.contains("spec.expirationSeconds: Invalid value: 60: may not specify a duration less than 10 minutes"), "{refused}");
    let refused = text(&ebbtide.try_kubectl(&["create", "token", "nobody"]));
    assert!(refused.contains("serviceaccounts \"nobody\" not found"), "{refused}");
    let discovery: Value = serde_json::from_str(&ebbtide.kubectl(&["get", "--raw", "/.well-known/openid-configuration"])).expect("JSON");
    let issuer = discovery["issuer"].as_str().expect("an issuer");
    assert_eq!(discovery["jwks_uri"].as_str(), Some(format!("{issuer}/openid/v1/jwks").as_str()));
    let irsa = token(&ebbtide, "app", "sts.amazonaws.com");
    let review = |token: &str, audience: &str| -> Value {
        let body = serde_json::json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview",
            "spec": {"token": token, "audiences": [audience]}});
        serde_json::from_str(&ebbtide.kubectl_with(&["create", "-o", "json", "-f", "-"], &body.to_string())).expect("JSON")
    };
    let reviewed = review(&irsa, "sts.amazonaws.com");
    assert_eq!(reviewed["status"]["user"]["username"], "system:serviceaccount:default:app", "{reviewed}");
    assert_eq!(review(&irsa, issuer)["status"]["authenticated"], Value::Null);
    // Such a token is no key to the API.
    let api = token(&ebbtide, "app", issuer);
    let (status, body) = https(&ebbtide, "/api/v1/namespaces/default/secrets", &api);
    assert!(status == 403 && body.contains("system:serviceaccount:default:app"), "{status} {body}");
    assert_eq!(https(&ebbtide, "/api/v1", &api).0, 200);
    assert_eq!(https(&ebbtide, "/api/v1/namespaces/default/secrets", &irsa).0, 401);

    let file = |name: &str, token: &str| {
        let path = dir.path().join(name);
        std::fs::write(&path, token).expect("writing a token");
        path.to_str().expect("UTF-8").to_owned()
    };
    let (irsa_file, pod_file) = (file("irsa", &irsa), file("pod", &token(&ebbtide, "agent", "pods.eks.amazonaws.com")));
    let other_file = file("other", &token(&ebbtide, "app", "pods.eks.amazonaws.com"));
    let program = r#"
import base64
def session(**env):
    for n in ('AWS_ACCESS_KEY_ID', 'AWS_SECRET_ACCESS_KEY', 'AWS_ROLE_ARN', 'AWS_WEB_IDENTITY_TOKEN_FILE', 'AWS_CONTAINER_CREDENTIALS_FULL_URI', 'AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE'):
        os.environ.pop(n, None)
    os.environ.update(env)
    return boto3.Session(region_name='us-east-1')

# IRSA: botocore's own web identity provider; what it got is accepted everywhere.
irsa = session(AWS_ROLE_ARN='arn:aws:iam::000000000000:role/ebs', AWS_WEB_IDENTITY_TOKEN_FILE=os.environ['IRSA'], AWS_ROLE_SESSION_NAME='driver')
assert irsa.get_credentials().method == 'assume-role-with-web-identity'
assert irsa.client('sts').get_caller_identity()['Arn'] == 'arn:aws:sts::000000000000:assumed-role/ebs/driver'
assert irsa.client('ec2').describe_volumes()['Volumes'] == []

sts = boto3.client('sts', region_name='us-east-1', config=botocore.config.Config(signature_version=botocore.UNSIGNED))
good = open(os.environ['IRSA']).read()
def call(token=good, role='arn:aws:iam::000000000000:role/ebs'):
    return sts.assume_role_with_web_identity(RoleArn=role, RoleSessionName='s1', WebIdentityToken=token)
answer = call()
assert answer['SubjectFromWebIdentityToken'] == 'system:serviceaccount:default:app' and answer['Audience'] == 'sts.amazonaws.com', answer
assert answer['Provider'] == 'arn:aws:iam::000000000000:oidc-provider/' + os.environ['ISSUER'].removeprefix('https://'), answer
head, body, signature = good.split('.')
def changed(**claims):
    text = json.loads(base64.urlsafe_b64decode(body + '=' * (-len(body) % 4)))
    return '.'.join([head, base64.urlsafe_b64encode(json.dumps({**text, **claims}).encode()).decode().rstrip('='), signature])
assert 'not a valid JWT' in fails('InvalidIdentityToken', call, token='nonsense')
assert fails('InvalidIdentityToken', call, token=changed(sub='system:serviceaccount:kube-system:admin')) == 'Token signature invalid'
assert 'No OpenIDConnect provider found in your account for https://evil.example' in fails('InvalidIdentityToken', call, token=changed(iss='https://evil.example'))
assert fails('InvalidIdentityToken', call, token=open(os.environ['POD']).read()) == 'Incorrect token audience'
fails('InvalidIdentityToken', call, role='arn:aws:iam::111111111111:role/ebs')
fails('ValidationError', call, role='nonsense-of-some-length')

# Pod Identity: botocore's container provider.
uri = os.environ['AWS_ENDPOINT_URL'] + '/v1/credentials'
pod = session(AWS_CONTAINER_CREDENTIALS_FULL_URI=uri, AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE=os.environ['POD'])
assert pod.get_credentials().method == 'container-role'
assert pod.client('sts').get_caller_identity()['Arn'] == 'arn:aws:sts::000000000000:assumed-role/agent/eks-ebbtide-agent'
assert pod.client('efs').describe_file_systems()['FileSystems'] == []
status, page, _ = http('GET', uri, Authorization=open(os.environ['OTHER']).read())
assert status == 404 and '(ResourceNotFoundException)' in page, page
status, page, _ = http('GET', uri, Authorization=good)
assert status == 400 and '(InvalidTokenException)' in page, page
assert http('GET', uri)[0] == 400
try:
    session(AWS_CONTAINER_CREDENTIALS_FULL_URI=uri, AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE=os.environ['OTHER']).get_credentials()
    raise AssertionError('credentials without an association')
except botocore.exceptions.CredentialRetrievalError:
    pass
"#;
    let prelude = PRELUDE.replace("base, other, pods = (os.environ[n] for n in ('NODE', 'OTHER', 'PODS'))", "base = None");
    let mut command = ebbtide.command("python");
    command.env("IRSA", irsa_file).env("POD", pod_file).env("OTHER", other_file).env("ISSUER", issuer);
    let output = command.arg("-c").arg(format!("{prelude}\n{program}")).output().expect("running python (make test installs it)");
    assert!(output.status.success(), "{}\n{}", text(&output), ebbtide.log());
}

/// GET of the Kubernetes API with a bearer token: status and body. Without a client's habit of adding its own credentials.
fn https(ebbtide: &Ebbtide, path: &str, token: &str) -> (u16, String) {
    let program = "import os, ssl, sys, urllib.request, urllib.error\n\
        request = urllib.request.Request(sys.argv[1], headers={'Authorization': 'Bearer ' + sys.argv[2]})\n\
        try:\n    answer = urllib.request.urlopen(request, context=ssl._create_unverified_context())\n\
        except urllib.error.HTTPError as e:\n    answer = e\n\
        print(answer.status)\nprint(answer.read().decode())\n";
    let url = format!("https://{}{path}", ebbtide.info["kube"].as_str().expect("an address"));
    let output = ebbtide.command("python").args(["-c", program, &url, token]).output().expect("running python");
    let out = text(&output);
    let (status, body) = out.split_once('\n').expect("a status");
    (status.parse().unwrap_or_else(|_| panic!("{out}")), body.to_owned())
}

#[test]
fn a_pod_finds_its_token_in_a_projected_volume_and_it_gives_a_role() {
    if !root() {
        return;
    }
    let ebbtide = Ebbtide::up(&["--auth", "verify"]);
    ebbtide.kubectl(&["create", "serviceaccount", "app"]);
    // What EKS's webhook adds to the pods of an account with a role. A pod has a /tmp of its own, where a checkout with its python
    // may be, so that the token is used outside.
    let manifest = r#"
apiVersion: v1
kind: Pod
metadata: {name: irsa}
spec:
  serviceAccountName: app
  restartPolicy: Never
  containers:
  - name: c
    image: busybox
    command: [/bin/sh, -c, cat $AWS_WEB_IDENTITY_TOKEN_FILE]
    env: [{name: AWS_WEB_IDENTITY_TOKEN_FILE, value: /var/run/secrets/eks.amazonaws.com/serviceaccount/token}]
    volumeMounts: [{name: token, mountPath: /var/run/secrets/eks.amazonaws.com/serviceaccount, readOnly: true}]
  volumes:
  - name: token
    projected:
      sources: [{serviceAccountToken: {audience: sts.amazonaws.com, expirationSeconds: 86400, path: token}}]
"#;
    ebbtide.kubectl_with(&["apply", "-f", "-"], manifest);
    wait_for("the pod to end", Duration::from_secs(60), || {
        matches!(ebbtide.kubectl(&["get", "pod", "irsa", "-o", "jsonpath={.status.phase}"]).as_str(), "Succeeded" | "Failed")
    });
    let file = ebbtide.dir().join("token");
    std::fs::write(&file, ebbtide.kubectl(&["logs", "irsa"]).trim()).expect("writing the token");
    python(
        &ebbtide,
        r#"
session = boto3.Session(region_name='us-east-1')
assert session.get_credentials().method == 'assume-role-with-web-identity'
arn = session.client('sts').get_caller_identity()['Arn']
assert arn == 'arn:aws:sts::000000000000:assumed-role/app/pod', arn
"#,
        &[
            ("AWS_ROLE_ARN", "arn:aws:iam::000000000000:role/app"),
            ("AWS_ROLE_SESSION_NAME", "pod"),
            ("AWS_WEB_IDENTITY_TOKEN_FILE", file.to_str().expect("a path in UTF-8")),
        ],
    );
}
