//! What a request meets: it waits, is refused, is answered from the past, or is carried out and never answered.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::extract::ConnectInfo;
use http::request::Parts;
use model_aws::faults::{self, ApiError, Call, Effect, Input, Reply, Verdict};

use crate::auth::Credential;
use crate::ctx::Ctx;
use crate::server::Peer;

/// Ends a connection without another byte: writes fail from then on, and the server gives the connection up.
#[derive(Debug, Clone, Default)]
pub struct Hangup(Arc<AtomicBool>);

impl Hangup {
    pub fn hang_up(&self) {
        self.0.store(true, Ordering::Release);
    }

    pub fn check(&self) -> std::io::Result<()> {
        if self.0.load(Ordering::Acquire) { Err(std::io::ErrorKind::ConnectionReset.into()) } else { Ok(()) }
    }
}

/// What a request asks for, as far as faults care.
pub struct Asked<'a> {
    pub service: &'static str,
    pub operation: &'a str,
    pub parts: &'a Parts,
    /// The parameters of the query protocol, or of a REST call's address.
    pub form: &'a str,
    /// A body in JSON.
    pub json: &'a [u8],
}

/// How a request goes on that is not refused.
pub struct Gate {
    past: Option<Ctx>,
    lost: Option<Hangup>,
}

impl Gate {
    const OPEN: Self = Self { past: None, lost: None };

    /// What the handler is to work with: the present, or the past.
    pub fn ctx<'a>(&'a self, present: &'a Ctx) -> &'a Ctx {
        self.past.as_ref().unwrap_or(present)
    }

    /// The request was carried out: an answer that is to be lost is lost now.
    pub fn carried_out(self) {
        if let Some(hangup) = self.lost {
            hangup.hang_up();
        }
    }
}

/// Asks the table. Where it is empty this costs one atomic read.
pub async fn meet(ctx: &Ctx, asked: &Asked<'_>) -> Result<Gate, ApiError> {
    if !ctx.engine.faulty() {
        return Ok(Gate::OPEN);
    }
    let Verdict { delay, error, lag, lost } = judge(ctx, asked.call()).await;
    if let Some(delay) = delay {
        tokio::time::sleep(delay.duration()).await;
    }
    if let Some(error) = error {
        return Err(error);
    }
    let past = lag.map(|lag| Ctx { engine: ctx.engine.as_of(lag.duration()), ..ctx.clone() });
    let hangup = asked.parts.extensions.get::<ConnectInfo<Peer>>().map(|peer| peer.0.1.clone());
    Ok(Gate { past, lost: hangup.filter(|_| lost) })
}

/// What the table says of a call.
pub async fn judge(ctx: &Ctx, call: Call) -> Verdict {
    if !ctx.engine.faulty() || !ctx.engine.read(|aws| aws.faults.concerns(&call)).await {
        return Verdict::default();
    }
    let verdict = match ctx.engine.command(model_aws::Input::Faults(Input::Call(call))).await {
        Ok(effects) => effects.into_iter().find_map(|effect| match effect {
            model_aws::Effect::Faults(Effect::Reply(Reply::Verdict(verdict))) => Some(verdict),
            _ => None,
        }),
        // The table judges every call.
        Err(_) => None,
    };
    verdict.unwrap_or_default()
}

impl Asked<'_> {
    fn call(&self) -> Call {
        let mut names = Vec::new();
        let mut dry_run = false;
        for (name, value) in form_urlencoded::parse(self.form.as_bytes()) {
            match name.as_ref() {
                "DryRun" => dry_run = value == "true",
                "Action" | "Version" => {}
                _ => names.push(value.into_owned()),
            }
        }
        // What names a resource of a REST call stands in its path, also inside an ARN.
        names.extend(self.parts.uri.path().split('/').filter(|segment| segment.contains('-')).map(str::to_owned));
        if let Ok(body) = serde_json::from_slice(self.json) {
            faults::texts(&body, &mut names);
        }
        let region = Credential::of(&self.parts.headers).map(|credential| credential.region.to_owned());
        Call { service: self.service.to_owned(), operation: self.operation.to_owned(), region, names, dry_run }
    }
}
