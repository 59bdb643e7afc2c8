//! The load: connections that send one request after the other; and the bare server that is the limit.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// One HTTP request, as bytes.
pub type Request = Vec<u8>;

/// An EC2 query call.
pub fn ec2(body: &str) -> Request {
    post("/", "ec2", "application/x-www-form-urlencoded; charset=utf-8", body)
}

/// A POST with the headers an SDK sends.
pub fn post(path: &str, service: &str, content_type: &str, body: &str) -> Request {
    format!(
        "POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: {content_type}\r\nContent-Length: {}\r\nX-Amz-Date: 20260101T000000Z\r\n\
         Authorization: AWS4-HMAC-SHA256 Credential=test/20260101/us-east-1/{service}/aws4_request, SignedHeaders=host;x-amz-date, \
         Signature=0000000000000000000000000000000000000000000000000000000000000000\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}

/// The status and the body of an answer.
pub struct Answer {
    pub status: u16,
    pub body: Vec<u8>,
}

/// One keep-alive connection; opened again where the server closes it after an answer (moto's does).
pub struct Connection {
    port: u16,
    stream: TcpStream,
    buffer: Vec<u8>,
    closed: bool,
}

impl Connection {
    pub async fn open(port: u16) -> std::io::Result<Self> {
        Ok(Self { port, stream: connect(port).await?, buffer: Vec::with_capacity(1 << 16), closed: false })
    }

    /// Sends a request and reads its answer (with Content-Length or chunked).
    pub async fn call(&mut self, request: &[u8]) -> std::io::Result<Answer> {
        if self.closed {
            self.stream = connect(self.port).await?;
        }
        self.stream.write_all(request).await?;
        self.buffer.clear();
        let head_end = loop {
            if let Some(at) = find(&self.buffer, b"\r\n\r\n") {
                break at + 4;
            }
            self.more().await?;
        };
        let head = String::from_utf8_lossy(&self.buffer[..head_end]).to_ascii_lowercase();
        let status = head.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or(0);
        let length = head.lines().find_map(|line| line.strip_prefix("content-length:")).and_then(|n| n.trim().parse::<usize>().ok());
        self.closed = head.lines().any(|line| line == "connection: close");
        match length {
            Some(length) => {
                while self.buffer.len() < head_end + length {
                    self.more().await?;
                }
                Ok(Answer { status, body: self.buffer[head_end..head_end + length].to_vec() })
            }
            None => {
                while !self.buffer.ends_with(b"\r\n0\r\n\r\n") {
                    self.more().await?;
                }
                Ok(Answer { status, body: self.buffer[head_end..].to_vec() })
            }
        }
    }

    async fn more(&mut self) -> std::io::Result<()> {
        match self.stream.read_buf(&mut self.buffer).await? {
            0 => Err(std::io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(()),
        }
    }
}

async fn connect(port: u16) -> std::io::Result<TcpStream> {
    let stream = TcpStream::connect(("127.0.0.1", port)).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|window| window == needle)
}

/// Calls and the time they took.
#[derive(Clone, Copy, Default)]
pub struct Tally {
    pub calls: u64,
    pub time: Duration,
}

impl Tally {
    /// Calls a second.
    pub fn rate(self) -> f64 {
        self.calls as f64 / self.time.as_secs_f64().max(f64::MIN_POSITIVE)
    }
}

impl std::ops::AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.calls += other.calls;
        self.time += other.time;
    }
}

/// Calls over so many connections, for so long. `make` gives the request of a number; `next` holds the first one, and is left at
/// the one to go on with. An answer that is not 2xx ends the benchmark.
pub fn rate(
    port: u16,
    connections: usize,
    seconds: f64,
    next: &Arc<AtomicU64>,
    make: impl Fn(u64) -> Request + Send + Sync + 'static,
) -> Tally {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
    runtime.block_on(async move {
        let make = Arc::new(make);
        let started = Instant::now();
        let until = started + Duration::from_secs_f64(seconds);
        let tasks: Vec<_> = (0..connections)
            .map(|_| {
                let (make, next) = (make.clone(), next.clone());
                tokio::spawn(async move {
                    let mut connection = Connection::open(port).await.expect("a connection");
                    let mut calls = 0u64;
                    while Instant::now() < until {
                        let request = make(next.fetch_add(1, Ordering::Relaxed));
                        let answer = connection.call(&request).await.expect("an answer");
                        assert!(
                            (200..300).contains(&answer.status),
                            "{} to {}",
                            String::from_utf8_lossy(&answer.body),
                            String::from_utf8_lossy(&request)
                        );
                        calls += 1;
                    }
                    calls
                })
            })
            .collect();
        let mut calls = 0;
        for task in tasks {
            calls += task.await.expect("a task");
        }
        Tally { calls, time: started.elapsed() }
    })
}

/// Sends every request once, over 16 connections, and gives the bodies in the order of the requests.
pub fn all(port: u16, requests: Vec<Request>) -> Vec<Vec<u8>> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
    runtime.block_on(async move {
        let count = requests.len();
        let requests = Arc::new(requests);
        let next = Arc::new(AtomicU64::new(0));
        let tasks: Vec<_> = (0..16)
            .map(|_| {
                let (requests, next) = (requests.clone(), next.clone());
                tokio::spawn(async move {
                    let mut connection = Connection::open(port).await.expect("a connection");
                    let mut bodies = Vec::new();
                    loop {
                        let at = next.fetch_add(1, Ordering::Relaxed) as usize;
                        let Some(request) = requests.get(at) else { return bodies };
                        let answer = connection.call(request).await.expect("an answer");
                        assert!((200..300).contains(&answer.status), "{}", String::from_utf8_lossy(&answer.body));
                        bodies.push((at, answer.body));
                    }
                })
            })
            .collect();
        let mut bodies = vec![Vec::new(); count];
        for task in tasks {
            for (at, body) in task.await.expect("a task") {
                bodies[at] = body;
            }
        }
        bodies
    })
}

/// The limit: a bare axum server that reads every request and answers it with the bytes of a file and our headers, on the port
/// in `PORT`.
pub fn serve(body: &Path) {
    let body = axum::body::Bytes::from(std::fs::read(body).expect("the body to serve"));
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(async move {
        let port: u16 = std::env::var("PORT").ok().and_then(|port| port.parse().ok()).expect("PORT");
        let listener = tokio::net::TcpListener::bind(("127.0.0.1", port)).await.expect("the port");
        let answer = move |_: axum::body::Bytes| {
            let body = body.clone();
            async move { ([("content-type", "text/xml;charset=UTF-8"), ("x-amzn-requestid", "00000000-0000-4000-8000-000000000000")], body) }
        };
        let app = axum::Router::new().fallback(answer);
        axum::serve(axum::serve::ListenerExt::tap_io(listener, |stream| drop(stream.set_nodelay(true))), app).await.expect("serving");
    });
}
