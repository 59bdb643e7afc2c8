//! Actions by method and path (efs.md §6), and errors with the header that the Go SDK needs (§1.6).

use axum::response::{IntoResponse, Response};
use http::{HeaderValue, Method, StatusCode, header};
use model_aws::efs::{self, Command, Creation, Key, NewAccessPoint, NewFileSystem, NewMountTarget, Reject, Reply};
use model_aws::{Effect, Input};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::route::{operation, segments};
use super::shapes::{self, Owner};
use crate::ctx::Ctx;
use crate::xml::request_id;

/// A page when the request does not say how long, and the longest one (efs.md §1.1).
const PAGE: usize = 100;
const LONGEST_PAGE: usize = 1000;

/// A finished answer.
pub struct Answer {
    pub result: Result<(u16, Vec<u8>), EfsError>,
}

/// An error of the EFS API.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EfsError(pub efs::Error);

impl EfsError {
    pub fn new(status: u16, code: &'static str, message: impl Into<String>) -> Self {
        Self(efs::Error { code, message: message.into(), status, existing: None })
    }

    fn bad_request(message: impl Into<String>) -> Self {
        Self::new(400, "BadRequest", message)
    }
}

impl From<Reject> for EfsError {
    fn from(reject: Reject) -> Self {
        Self(efs::reject_to_error(&reject))
    }
}

impl IntoResponse for EfsError {
    fn into_response(self) -> Response {
        let mut body = json!({"ErrorCode": self.0.code, "Message": self.0.message});
        if let (Some((field, id)), Some(body)) = (self.0.existing, body.as_object_mut()) {
            body.insert(field.to_owned(), id.into());
        }
        error_response(self.0.status, self.0.code, &body)
    }
}

fn error_response(status: u16, code: &str, body: &serde_json::Value) -> Response {
    let mut response = respond(status, body.to_string().into_bytes());
    if let Ok(code) = HeaderValue::from_str(code) {
        response.headers_mut().insert("x-amzn-errortype", code);
    }
    response
}

/// An error with a code that is not the machine's own: of the table of faults.
pub fn refused(status: u16, code: &str, message: &str) -> Response {
    error_response(status, code, &json!({"ErrorCode": code, "Message": message}))
}

impl IntoResponse for Answer {
    fn into_response(self) -> Response {
        match self.result {
            Ok((status, body)) => respond(status, body),
            Err(error) => error.into_response(),
        }
    }
}

fn respond(status: u16, body: Vec<u8>) -> Response {
    let mut response = Response::new(axum::body::Body::from(body));
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    if let Ok(id) = HeaderValue::from_str(&request_id()) {
        response.headers_mut().insert("x-amzn-requestid", id);
    }
    response
}

/// A parameter of the query string; `?a=` counts as not given.
struct Query(Vec<(String, String)>);

impl Query {
    fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(key, value)| key == name && !value.is_empty()).map(|(_, value)| value.as_str())
    }

    fn all(&self, name: &str) -> Vec<String> {
        self.0.iter().filter(|(key, _)| key == name).map(|(_, value)| value.clone()).collect()
    }

    fn page(&self, size: &str, token: &str) -> Result<(Key, usize), EfsError> {
        let most = match self.get(size).map(str::parse::<usize>) {
            None => PAGE,
            Some(Ok(most)) if most >= 1 => most.min(LONGEST_PAGE),
            Some(_) => return Err(EfsError::bad_request(format!("{size} must be a number of at least 1."))),
        };
        let after = match self.get(token) {
            None => 0,
            Some(text) => {
                Key::from_str_radix(text, 16).map_err(|_| EfsError::bad_request(format!("The {token} '{text}' is not valid.")))?
            }
        };
        Ok((after, most))
    }
}

fn token(next: Option<Key>) -> Option<String> {
    next.map(|key| format!("{key:016x}"))
}

/// Answers a request whose path begins with `/2015-02-01/`; `path` is what follows.
pub async fn handle(ctx: &Ctx, method: &Method, path: &str, query: Option<&str>, body: &[u8]) -> Answer {
    let segments = segments(path);
    let segments: Vec<&str> = segments.iter().map(String::as_str).collect();
    let query = Query(form_urlencoded::parse(query.unwrap_or("").as_bytes()).into_owned().collect());
    let action = operation(method, &segments);
    let result = match (action, segments.as_slice()) {
        ("CreateFileSystem", _) => create_file_system(ctx, body).await,
        ("DescribeFileSystems", _) => describe_file_systems(ctx, &query).await,
        ("DescribeReplicationConfigurations", _) => replications(ctx, &query).await,
        ("UpdateFileSystem", [_, id, ..]) => update_file_system(ctx, id, body).await,
        ("DeleteFileSystem", [_, id, ..]) => done(ctx, Command::DeleteFileSystem { id: (*id).into() }, 204).await,
        ("UpdateFileSystemProtection", [_, id, ..]) => protect(ctx, id, body).await,
        ("DescribeLifecycleConfiguration", [_, id, ..]) => lifecycle(ctx, id).await,
        ("PutLifecycleConfiguration", [_, id, ..]) => put_lifecycle(ctx, id, body).await,
        ("DescribeBackupPolicy", [_, id, ..]) => backup(ctx, id).await,
        ("PutBackupPolicy", [_, id, ..]) => put_backup(ctx, id, body).await,
        ("DescribeFileSystemPolicy", [_, id, ..]) => policy(ctx, id).await,
        ("PutFileSystemPolicy", [_, id, ..]) => put_policy(ctx, id, body).await,
        ("DeleteFileSystemPolicy", [_, id, ..]) => done(ctx, Command::DeleteFileSystemPolicy { id: (*id).into() }, 200).await,
        ("CreateMountTarget", _) => create_mount_target(ctx, body).await,
        ("DescribeMountTargets", _) => describe_mount_targets(ctx, &query).await,
        ("DeleteMountTarget", [_, id, ..]) => done(ctx, Command::DeleteMountTarget { id: (*id).into() }, 204).await,
        ("DescribeMountTargetSecurityGroups", [_, id, ..]) => security_groups(ctx, id).await,
        ("ModifyMountTargetSecurityGroups", [_, id, ..]) => put_security_groups(ctx, id, body).await,
        ("CreateAccessPoint", _) => create_access_point(ctx, body).await,
        ("DescribeAccessPoints", _) => describe_access_points(ctx, &query).await,
        ("DeleteAccessPoint", [_, id, ..]) => done(ctx, Command::DeleteAccessPoint { id: (*id).into() }, 204).await,
        ("ListTagsForResource", [_, id @ ..]) => list_tags(ctx, &id.join("/")).await,
        ("TagResource", [_, id @ ..]) => tag(ctx, &id.join("/"), body).await,
        ("UntagResource", [_, id @ ..]) => {
            let (id, keys) = (id.join("/"), query.all("tagKeys"));
            done(ctx, Command::UntagResource { id, keys }, 200).await
        }
        ("DescribeAccountPreferences" | "PutAccountPreferences", _) => preferences(body),
        _ => Err(EfsError::new(404, "UnknownOperationException", format!("{method} {path} is no operation of EFS, or not built yet."))),
    };
    Answer { result }
}

type Outcome = Result<(u16, Vec<u8>), EfsError>;

fn reply(status: u16, body: &impl Serialize) -> Outcome {
    serde_json::to_vec(body).map(|body| (status, body)).map_err(|error| EfsError::new(500, "InternalServerError", error.to_string()))
}

fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, EfsError> {
    let body = if body.is_empty() { b"{}" } else { body };
    serde_json::from_slice(body).map_err(|error| EfsError::bad_request(format!("The request body is not valid: {error}")))
}

async fn command(ctx: &Ctx, command: Command) -> Result<Reply, EfsError> {
    match ctx.engine.command(Input::Efs(efs::Input::Command(command))).await {
        Ok(replies) => replies
            .into_iter()
            .find_map(|effect| if let Effect::Efs(efs::Effect::Reply(reply)) = effect { Some(reply) } else { None })
            .ok_or_else(|| EfsError::new(500, "InternalServerError", "The command gave no reply.")),
        Err(model_aws::Reject::Efs(reject)) => Err(reject.into()),
        Err(other) => Err(EfsError::new(500, "InternalServerError", other.to_string())),
    }
}

/// A command that answers nothing.
async fn done(ctx: &Ctx, what: Command, status: u16) -> Outcome {
    command(ctx, what).await.map(|_| (status, Vec::new()))
}

/// A command that answers its resource.
async fn shown(ctx: &Ctx, what: Command, status: u16) -> Outcome {
    let owner = Owner(&ctx.world);
    match command(ctx, what).await? {
        Reply::FileSystem(row, targets) => reply(status, &shapes::file_system(owner, &row, targets)),
        Reply::MountTarget(row) => reply(status, &shapes::mount_target(owner, &row)),
        Reply::AccessPoint(row) => reply(status, &shapes::access_point(owner, &row)),
        Reply::Done => Ok((status, Vec::new())),
    }
}

async fn create_file_system(ctx: &Ctx, body: &[u8]) -> Outcome {
    let request: shapes::CreateFileSystem = parse(body)?;
    let new = NewFileSystem {
        provisioned_kibps: request.throughput.kibps(),
        creation_token: request.creation_token,
        performance_mode: request.performance_mode,
        encrypted: request.encrypted,
        kms_key_id: request.kms_key_id,
        throughput_mode: request.throughput.throughput_mode,
        availability_zone: request.availability_zone_name,
        backup: request.backup,
        tags: shapes::tag_map(request.tags),
    };
    shown(ctx, Command::CreateFileSystem(new), 201).await
}

async fn update_file_system(ctx: &Ctx, id: &str, body: &[u8]) -> Outcome {
    let request: shapes::Throughput = parse(body)?;
    let provisioned_kibps = request.kibps();
    shown(ctx, Command::UpdateFileSystem { id: id.into(), throughput_mode: request.throughput_mode, provisioned_kibps }, 202).await
}

async fn protect(ctx: &Ctx, id: &str, body: &[u8]) -> Outcome {
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Request {
        replication_overwrite_protection: String,
    }
    let replication_overwrite = match parse::<Request>(body)?.replication_overwrite_protection.as_str() {
        "ENABLED" => true,
        "DISABLED" => false,
        other => return Err(EfsError::bad_request(format!("ReplicationOverwriteProtection '{other}' must be ENABLED or DISABLED."))),
    };
    command(ctx, Command::UpdateFileSystemProtection { id: id.into(), replication_overwrite }).await?;
    reply(200, &shapes::Protection::of(replication_overwrite))
}

async fn describe_file_systems(ctx: &Ctx, query: &Query) -> Outcome {
    let (after, most) = query.page("MaxItems", "Marker")?;
    let (id, creation) = (query.get("FileSystemId"), query.get("CreationToken"));
    let owner = Owner(&ctx.world);
    let described = ctx.engine.read(|aws| {
        let page = aws.efs.describe_file_systems(id, creation, after, most)?;
        let items: Vec<_> = page.items.iter().map(|(row, targets)| shapes::file_system(owner, row, *targets)).collect();
        Ok::<_, Reject>((items, page.next))
    });
    let (items, next) = described.await?;
    reply(200, &Listed { marker: query.get("Marker"), file_systems: Some(items), mount_targets: None::<Vec<()>>, next_marker: token(next) })
}

/// The two lists that are paged by markers.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Listed<'a, F, M> {
    #[serde(skip_serializing_if = "Option::is_none")]
    marker: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    file_systems: Option<F>,
    #[serde(skip_serializing_if = "Option::is_none")]
    mount_targets: Option<M>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next_marker: Option<String>,
}

async fn lifecycle(ctx: &Ctx, id: &str) -> Outcome {
    let lifecycle_policies = ctx.engine.read(|aws| aws.efs.file_system(id).map(|row| row.lifecycle.clone())).await?;
    reply(200, &shapes::LifecycleConfiguration { lifecycle_policies })
}

async fn put_lifecycle(ctx: &Ctx, id: &str, body: &[u8]) -> Outcome {
    let request: shapes::LifecycleConfiguration = parse(body)?;
    command(ctx, Command::PutLifecycleConfiguration { id: id.into(), policies: request.lifecycle_policies.clone() }).await?;
    reply(200, &request)
}

fn backup_policy(enabled: bool) -> Outcome {
    reply(200, &json!({"BackupPolicy": {"Status": if enabled { "ENABLED" } else { "DISABLED" }}}))
}

async fn backup(ctx: &Ctx, id: &str) -> Outcome {
    backup_policy(ctx.engine.read(|aws| aws.efs.file_system(id).map(|row| row.backup)).await?)
}

async fn put_backup(ctx: &Ctx, id: &str, body: &[u8]) -> Outcome {
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Request {
        backup_policy: Policy,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Policy {
        status: String,
    }
    let enabled = match parse::<Request>(body)?.backup_policy.status.as_str() {
        "ENABLED" => true,
        "DISABLED" => false,
        other => return Err(EfsError::new(400, "ValidationException", format!("The Status '{other}' must be ENABLED or DISABLED."))),
    };
    command(ctx, Command::PutBackupPolicy { id: id.into(), enabled }).await?;
    backup_policy(enabled)
}

async fn policy(ctx: &Ctx, id: &str) -> Outcome {
    let read = ctx.engine.read(|aws| {
        let row = aws.efs.file_system(id)?;
        row.policy.clone().map(|policy| (row.id.clone(), policy)).ok_or_else(|| Reject::NoPolicy(row.id.clone()))
    });
    let (id, policy) = read.await?;
    reply(200, &json!({"FileSystemId": id, "Policy": policy}))
}

async fn put_policy(ctx: &Ctx, id: &str, body: &[u8]) -> Outcome {
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Request {
        policy: String,
    }
    let document = parse::<Request>(body)?.policy;
    command(ctx, Command::PutFileSystemPolicy { id: id.into(), policy: document }).await?;
    policy(ctx, id).await
}

/// No replication can be made here, so there is none to describe.
async fn replications(ctx: &Ctx, query: &Query) -> Outcome {
    if let Some(id) = query.get("FileSystemId") {
        ctx.engine.read(|aws| aws.efs.file_system(id).map(drop)).await?;
        return Err(EfsError::new(404, "ReplicationNotFound", format!("The file system '{id}' has no replication configuration.")));
    }
    reply(200, &json!({"Replications": []}))
}

async fn create_mount_target(ctx: &Ctx, body: &[u8]) -> Outcome {
    let request: shapes::CreateMountTarget = parse(body)?;
    if request.ipv6_address.is_some() || !matches!(request.ip_address_type.as_deref(), None | Some("IPV4_ONLY")) {
        return Err(EfsError::bad_request("The subnet has no IPv6 addresses; IpAddressType must be IPV4_ONLY."));
    }
    let new = NewMountTarget {
        file_system_id: request.file_system_id,
        subnet_id: request.subnet_id,
        ip_address: request.ip_address,
        security_groups: request.security_groups,
    };
    shown(ctx, Command::CreateMountTarget(new), 200).await
}

async fn describe_mount_targets(ctx: &Ctx, query: &Query) -> Outcome {
    let (after, most) = query.page("MaxItems", "Marker")?;
    let (file_system, target, point) = (query.get("FileSystemId"), query.get("MountTargetId"), query.get("AccessPointId"));
    let owner = Owner(&ctx.world);
    let described = ctx.engine.read(|aws| {
        let page = aws.efs.describe_mount_targets(file_system, target, point, after, most)?;
        let items: Vec<_> = page.items.iter().map(|row| shapes::mount_target(owner, row)).collect();
        Ok::<_, Reject>((items, page.next))
    });
    let (items, next) = described.await?;
    reply(200, &Listed { marker: query.get("Marker"), file_systems: None::<Vec<()>>, mount_targets: Some(items), next_marker: token(next) })
}

async fn security_groups(ctx: &Ctx, id: &str) -> Outcome {
    let groups = ctx.engine.read(|aws| aws.efs.mount_target(id).map(|row| row.security_groups.clone())).await?;
    reply(200, &json!({"SecurityGroups": groups}))
}

async fn put_security_groups(ctx: &Ctx, id: &str, body: &[u8]) -> Outcome {
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Request {
        #[serde(default)]
        security_groups: Vec<String>,
    }
    let security_groups = parse::<Request>(body)?.security_groups;
    done(ctx, Command::ModifyMountTargetSecurityGroups { id: id.into(), security_groups }, 204).await
}

async fn create_access_point(ctx: &Ctx, body: &[u8]) -> Outcome {
    let request: shapes::CreateAccessPoint = parse(body)?;
    let root = request.root_directory.unwrap_or(shapes::RootDirectory { path: None, creation_info: None });
    let new = NewAccessPoint {
        client_token: request.client_token,
        file_system_id: request.file_system_id,
        posix_user: request.posix_user.map(shapes::PosixUser::into_model),
        path: root.path,
        creation: root.creation_info.map(|info| Creation {
            owner_uid: info.owner_uid,
            owner_gid: info.owner_gid,
            permissions: info.permissions,
        }),
        tags: shapes::tag_map(request.tags),
    };
    shown(ctx, Command::CreateAccessPoint(new), 200).await
}

async fn describe_access_points(ctx: &Ctx, query: &Query) -> Outcome {
    let (after, most) = query.page("MaxResults", "NextToken")?;
    let (point, file_system) = (query.get("AccessPointId"), query.get("FileSystemId"));
    let owner = Owner(&ctx.world);
    let described = ctx.engine.read(|aws| {
        let page = aws.efs.describe_access_points(point, file_system, after, most)?;
        let items: Vec<_> = page.items.iter().map(|row| shapes::access_point(owner, row)).collect();
        Ok::<_, Reject>((items, page.next))
    });
    let (access_points, next) = described.await?;
    #[derive(Serialize)]
    #[serde(rename_all = "PascalCase")]
    struct Response {
        access_points: Vec<shapes::AccessPointDescription>,
        #[serde(skip_serializing_if = "Option::is_none")]
        next_token: Option<String>,
    }
    reply(200, &Response { access_points, next_token: token(next) })
}

async fn list_tags(ctx: &Ctx, id: &str) -> Outcome {
    let tags = ctx.engine.read(|aws| aws.efs.tags(id).map(shapes::tags)).await?;
    reply(200, &json!({"Tags": tags}))
}

async fn tag(ctx: &Ctx, id: &str, body: &[u8]) -> Outcome {
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Request {
        tags: Vec<shapes::Tag>,
    }
    let tags = shapes::tag_map(parse::<Request>(body)?.tags);
    done(ctx, Command::TagResource { id: id.into(), tags }, 200).await
}

/// Ids are long since 2021; short ones cannot be had back (efs.md §5.4).
fn preferences(body: &[u8]) -> Outcome {
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Request {
        resource_id_type: Option<String>,
    }
    match parse::<Request>(body)?.resource_id_type.as_deref() {
        None | Some("LONG_ID") => {
            reply(200, &json!({"ResourceIdPreference": {"ResourceIdType": "LONG_ID", "Resources": ["FILE_SYSTEM", "MOUNT_TARGET"]}}))
        }
        Some(other) => Err(EfsError::bad_request(format!("ResourceIdType '{other}' is not supported; it is LONG_ID."))),
    }
}
