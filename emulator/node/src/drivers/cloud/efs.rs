//! EFS's REST protocol (efs.md §1.5, §1.6).

use model_node::driver::cloud::{AccessPoint, CloudCall, CloudError, CloudReply, FileSystem};
use serde::Deserialize;
use serde_json::json;

use super::{Request, Response, encode, transport};

pub(super) fn request(call: &CloudCall) -> Request {
    let new = |method, path: String, query: String, body: String| Request {
        service: "elasticfilesystem",
        method,
        path,
        query,
        content_type: "application/json",
        body,
    };
    let points = "/2015-02-01/access-points";
    match call {
        CloudCall::CreateAccessPoint(point) => {
            let tags: Vec<_> = point.tags.iter().map(|(key, value)| json!({ "Key": key, "Value": value })).collect();
            let body = json!({
                "ClientToken": point.client_token,
                "FileSystemId": point.file_system_id,
                "PosixUser": { "Gid": point.gid, "Uid": point.uid },
                "RootDirectory": {
                    "CreationInfo": { "OwnerGid": point.gid, "OwnerUid": point.uid, "Permissions": point.permissions },
                    "Path": point.path,
                },
                "Tags": tags,
            });
            new(reqwest::Method::POST, points.to_owned(), String::new(), body.to_string())
        }
        CloudCall::DeleteAccessPoint { access_point_id } => {
            new(reqwest::Method::DELETE, format!("{points}/{}", encode(access_point_id)), String::new(), String::new())
        }
        CloudCall::DescribeAccessPoints { file_system_id, next_token } => {
            let mut query = format!("FileSystemId={}&MaxResults=1000", encode(file_system_id));
            if let Some(token) = next_token {
                query.push_str(&format!("&NextToken={}", encode(token)));
            }
            new(reqwest::Method::GET, points.to_owned(), query, String::new())
        }
        CloudCall::DescribeFileSystems { file_system_id } => {
            let query = format!("FileSystemId={}", encode(file_system_id));
            new(reqwest::Method::GET, "/2015-02-01/file-systems".to_owned(), query, String::new())
        }
        // EC2's calls do not come here.
        _ => new(reqwest::Method::GET, "/".to_owned(), String::new(), String::new()),
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct PointJson {
    access_point_id: String,
    file_system_id: String,
    #[serde(default)]
    client_token: String,
    posix_user: Option<UserJson>,
    root_directory: Option<RootJson>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct UserJson {
    uid: i64,
    gid: i64,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct RootJson {
    path: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct PointsJson {
    access_points: Vec<PointJson>,
    next_token: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct FileSystemsJson {
    file_systems: Vec<FileSystemJson>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct FileSystemJson {
    file_system_id: String,
    availability_zone_name: Option<String>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "PascalCase", default)]
struct Failure {
    error_code: String,
    message: String,
}

impl From<PointJson> for AccessPoint {
    fn from(json: PointJson) -> Self {
        Self {
            access_point_id: json.access_point_id,
            file_system_id: json.file_system_id,
            client_token: json.client_token,
            path: json.root_directory.and_then(|root| root.path).unwrap_or_else(|| "/".to_owned()),
            posix_user: json.posix_user.map(|user| (user.uid, user.gid)),
        }
    }
}

pub(super) fn reply(call: &CloudCall, response: &Response) -> Result<CloudReply, CloudError> {
    if response.status >= 300 {
        let failure: Failure = serde_json::from_str(&response.body).unwrap_or_default();
        // The Go SDK looks at the header, whose value may have more after a colon.
        let header = response.error_type.split(':').next().unwrap_or_default();
        let code = [header, &failure.error_code, "UnknownError"].into_iter().find(|code| !code.is_empty()).unwrap_or_default();
        return Err(call.error(response.status, &response.request_id, code, &failure.message));
    }
    let broken = |error: serde_json::Error| transport(call, format!("deserialization failed, {error}"));
    Ok(match call {
        CloudCall::CreateAccessPoint(_) => {
            CloudReply::AccessPoint(serde_json::from_str::<PointJson>(&response.body).map_err(broken)?.into())
        }
        CloudCall::DescribeAccessPoints { .. } => {
            let page: PointsJson = serde_json::from_str(&response.body).map_err(broken)?;
            CloudReply::AccessPoints {
                access_points: page.access_points.into_iter().map(AccessPoint::from).collect(),
                next_token: page.next_token.filter(|token| !token.is_empty()),
            }
        }
        CloudCall::DescribeFileSystems { .. } => {
            let found: FileSystemsJson = serde_json::from_str(&response.body).map_err(broken)?;
            CloudReply::FileSystems(
                found
                    .file_systems
                    .into_iter()
                    .map(|json| FileSystem { file_system_id: json.file_system_id, availability_zone: json.availability_zone_name })
                    .collect(),
            )
        }
        _ => CloudReply::Done,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_named_by_the_header() {
        let call = CloudCall::DeleteAccessPoint { access_point_id: "fsap-1".into() };
        let response = |error_type: &str| Response {
            status: 404,
            body: r#"{"ErrorCode":"AccessPointNotFound","Message":"no"}"#.into(),
            request_id: "r".into(),
            error_type: error_type.into(),
        };
        assert_eq!(reply(&call, &response("AccessPointNotFound:http://x")).unwrap_err().code(), "AccessPointNotFound");
        let error = reply(&call, &response("")).unwrap_err();
        assert_eq!((error.code(), error.message()), ("AccessPointNotFound", "no"));
    }
}
