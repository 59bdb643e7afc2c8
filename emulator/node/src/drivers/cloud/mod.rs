//! The AWS client of the drivers: EC2's query protocol and EFS's REST over plain HTTP, signed, with the SDK's retries.

mod ec2;
mod efs;
mod retry;

use std::time::Duration;

use emulator_common::sigv4::{self, Signable, Signer};
use model_node::driver::cloud::{CloudCall, CloudError, CloudReply};

use retry::Retries;

/// Codes that the SDK retries by itself (ebs.md §1.6, efs.md §1.6).
const THROTTLES: [&str; 15] = [
    "Throttling",
    "ThrottlingException",
    "ThrottledException",
    "RequestThrottledException",
    "TooManyRequestsException",
    "ProvisionedThroughputExceededException",
    "TransactionInProgressException",
    "RequestLimitExceeded",
    "BandwidthLimitExceeded",
    "LimitExceededException",
    "RequestThrottled",
    "SlowDown",
    "PriorRequestNotComplete",
    "EC2ThrottledException",
    "RequestTimeout",
];
/// As the EBS driver sets it.
const EC2_ATTEMPTS: u32 = 50;
const EFS_ATTEMPTS: u32 = 5;
/// Calls of EC2 that have a retryer of their own; the others share the client's.
const OWN_RETRYER: [&str; 9] = [
    "CreateVolume",
    "CopyVolumes",
    "DeleteVolume",
    "AttachVolume",
    "DetachVolume",
    "ModifyVolume",
    "CreateSnapshot",
    "DeleteSnapshot",
    "EnableFastSnapshotRestores",
];

/// A request before it is signed.
struct Request {
    service: &'static str,
    method: reqwest::Method,
    path: String,
    /// Encoded, sorted.
    query: String,
    content_type: &'static str,
    body: String,
}

/// What came back.
struct Response {
    status: u16,
    body: String,
    /// `x-amzn-RequestId`, `X-Amzn-ErrorType`.
    request_id: String,
    error_type: String,
}

/// A client of one endpoint.
pub(super) struct Cloud {
    http: reqwest::Client,
    endpoint: String,
    signer: Signer,
    retries: Retries,
    /// The probe succeeded by its dry run: it is not asked again for a while.
    probed: tokio::sync::Mutex<Option<tokio::time::Instant>>,
}

impl Cloud {
    pub(super) fn new(endpoint: &str, region: &str, (key, secret): (String, String)) -> Self {
        Self {
            // A default client can be made unless TLS cannot be set up, and there is none in this build.
            http: reqwest::Client::builder().no_proxy().tcp_nodelay(true).user_agent(agent()).build().unwrap_or_default(),
            endpoint: endpoint.trim_end_matches('/').to_owned(),
            signer: Signer { region: region.to_owned(), key, secret, token: None },
            retries: Retries::default(),
            probed: tokio::sync::Mutex::new(None),
        }
    }

    /// Asks, and asks again while AWS is throttling, failing or away.
    pub(super) async fn call(&self, call: &CloudCall) -> Result<CloudReply, CloudError> {
        let attempts = if call.operation().0 == "EC2" { EC2_ATTEMPTS } else { EFS_ATTEMPTS };
        let retryer = retryer(call);
        let (mut attempt, mut taken) = (1, 0);
        loop {
            let error = match self.once(call).await {
                Ok(reply) => {
                    self.retries.succeeded(retryer, taken);
                    return Ok(reply);
                }
                Err(error) => error,
            };
            if !retryable(&error) {
                return Err(error);
            }
            if attempt == attempts {
                return Err(exhausted(error, attempts));
            }
            taken = match self.retries.take(retryer, error.code() == "RequestTimeout") {
                Ok(taken) => taken,
                Err(exceeded) => return Err(joined(error, &exceeded)),
            };
            tracing::debug!(%error, attempt, "asking AWS again");
            tokio::time::sleep(retry::delay(attempt)).await;
            attempt += 1;
        }
    }

    async fn once(&self, call: &CloudCall) -> Result<CloudReply, CloudError> {
        let is_ec2 = call.operation().0 == "EC2";
        let request = if is_ec2 { ec2::request(call) } else { efs::request(call) };
        let response = self.send(&request).await.map_err(|error| {
            let why = format!("https response error StatusCode: 0, RequestID: , request send failed, {}", causes(&error));
            transport(call, why)
        })?;
        if is_ec2 { ec2::reply(call, &response) } else { efs::reply(call, &response) }
    }

    /// `DescribeAvailabilityZones` as a dry run, once (ebs.md §1.4).
    pub(super) async fn probe(&self) -> Result<(), CloudError> {
        const FRESH: Duration = Duration::from_secs(3 * 3600);
        let mut probed = self.probed.lock().await;
        if probed.is_some_and(|at| at.elapsed() < FRESH) {
            return Ok(());
        }
        let call = CloudCall::DescribeAvailabilityZones;
        let response = self.send(&ec2::probe()).await.map_err(|error| {
            transport(&call, format!("https response error StatusCode: 0, RequestID: , request send failed, {}", causes(&error)))
        })?;
        match ec2::reply(&call, &response) {
            Err(error) if error.code() != "DryRunOperation" => Err(error),
            Err(_) => {
                *probed = Some(tokio::time::Instant::now());
                Ok(())
            }
            // Not a dry run, but an answer.
            Ok(_) => Ok(()),
        }
    }

    async fn send(&self, request: &Request) -> Result<Response, reqwest::Error> {
        let separator = if request.query.is_empty() { "" } else { "?" };
        let url = format!("{}{}{separator}{}", self.endpoint, request.path, request.query);
        let signable = Signable {
            service: request.service,
            method: request.method.as_str(),
            host: sigv4::host(&self.endpoint),
            path: &request.path,
            query: &request.query,
            content_type: Some(request.content_type),
            body: request.body.as_bytes(),
        };
        let mut ask = self.http.request(request.method.clone(), url).header("content-type", request.content_type);
        for (name, value) in self.signer.sign(&signable, jiff::Timestamp::now()) {
            ask = ask.header(name, value);
        }
        let sent = ask.body(request.body.clone()).send().await?;
        let header = |name: &str| sent.headers().get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned();
        let (request_id, error_type) = (header("x-amzn-requestid"), header("x-amzn-errortype"));
        Ok(Response { status: sent.status().as_u16(), body: sent.text().await?, request_id, error_type })
    }
}

fn agent() -> &'static str {
    concat!("ebbtide-csi-driver/", env!("CARGO_PKG_VERSION"))
}

fn causes(error: &reqwest::Error) -> String {
    crate::host::chain(error)
}

fn transport(call: &CloudCall, message: String) -> CloudError {
    let (service, operation) = call.operation();
    CloudError::Transport { operation: format!("{service}: {operation}"), message }
}

fn retryable(error: &CloudError) -> bool {
    match error {
        CloudError::Api { code, status, .. } => THROTTLES.contains(&code.as_str()) || [500, 502, 503, 504].contains(status),
        CloudError::Transport { .. } => true,
    }
}

/// Which quota the retries of a call count against (retry_manager.go; the EFS driver has a retryer for each call).
fn retryer(call: &CloudCall) -> &'static str {
    let (service, operation) = call.operation();
    match call {
        CloudCall::CreateVolume(new) if new.dry_run => "",
        _ if service != "EC2" || OWN_RETRYER.contains(&operation) => operation,
        _ => "",
    }
}

/// Go's `errors.Join`: the texts one below the other.
fn joined(error: CloudError, exceeded: &retry::Exceeded) -> CloudError {
    let below = |message: String| format!("{message}\n{exceeded}");
    match error {
        CloudError::Api { operation, status, request_id, code, message } => {
            CloudError::Api { operation, status, request_id, code, message: below(message) }
        }
        CloudError::Transport { operation, message } => CloudError::Transport { operation, message: below(message) },
    }
}

/// The SDK says so when it gave up.
fn exhausted(error: CloudError, attempts: u32) -> CloudError {
    match error {
        CloudError::Transport { operation, message } => {
            CloudError::Transport { operation, message: format!("exceeded maximum number of attempts, {attempts}, {message}") }
        }
        error @ CloudError::Api { .. } => error,
    }
}

/// For names and values of parameters and for parts of a path.
fn encode(text: &str) -> String {
    sigv4::encode(text, false)
}
