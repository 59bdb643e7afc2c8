//! Answers as IMDS writes them: plain text, and its XHTML pages for errors.

use axum::body::Body;
use axum::response::Response;
use http::{HeaderValue, StatusCode, header};

/// A found value; `left` are the seconds that the request's token still lives.
pub fn ok(text: String, left: Option<u32>) -> Response {
    let mut response = page(StatusCode::OK, "text/plain", text);
    if let Some(left) = left {
        response.headers_mut().insert("x-aws-ec2-metadata-token-ttl-seconds", left.into());
    }
    response
}

/// The page of an error.
pub fn error(status: StatusCode) -> Response {
    let reason = match status {
        StatusCode::METHOD_NOT_ALLOWED => "Not Allowed",
        other => other.canonical_reason().unwrap_or("Error"),
    };
    let title = format!("{} - {reason}", status.as_u16());
    let text = format!(
        "<?xml version=\"1.0\" encoding=\"iso-8859-1\"?>\n<!DOCTYPE html PUBLIC \"-//W3C//DTD XHTML 1.0 Transitional//EN\"\n\
         \t\"http://www.w3.org/TR/xhtml1/DTD/xhtml1-transitional.dtd\">\n\
         <html xmlns=\"http://www.w3.org/1999/xhtml\" xml:lang=\"en\" lang=\"en\">\n \
         <head>\n  <title>{title}</title>\n </head>\n <body>\n  <h1>{title}</h1>\n </body>\n</html>\n"
    );
    page(status, "text/html", text)
}

fn page(status: StatusCode, content_type: &'static str, text: String) -> Response {
    let mut response = Response::new(Body::from(text));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(header::SERVER, HeaderValue::from_static("EC2ws"));
    headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    if status == StatusCode::OK {
        headers.insert(header::ACCEPT_RANGES, HeaderValue::from_static("none"));
    }
    response
}
