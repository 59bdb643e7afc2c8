//! Carries out the works of the EC2 machine: files here, devices through the agents.

use std::path::PathBuf;

use model_aws::ec2::{Failure, InstanceId, Observed, Source, Work};
use model_common::agent::{Device, DeviceError, ToAgent};

use crate::blocks::{self, BlockError};
use crate::ctx::Ctx;
use crate::hub::HubError;

/// The instance whose devices a work changes.
pub fn instance_of(work: &Work) -> Option<&str> {
    match work {
        Work::Attach { instance, .. }
        | Work::Detach { instance, .. }
        | Work::Resize { instance, .. }
        | Work::DetachStray { instance, .. } => Some(instance),
        Work::MakeFile { .. }
        | Work::GrowFile { .. }
        | Work::RemoveFile { .. }
        | Work::CopySnapshot { .. }
        | Work::RemoveSnapshot { .. }
        | Work::RemoveStray { .. } => None,
    }
}

/// What lies on disk at a start. Removes files that were being made.
pub fn observe(places: &emulator_common::places::Places) -> Result<Observed, BlockError> {
    Ok(Observed { volumes: blocks::observe(&places.volumes())?, snapshots: blocks::observe(&places.snapshots())? })
}

/// Acts. Every work can be done twice.
pub async fn perform(ctx: &Ctx, work: &Work) -> Result<(), Failure> {
    let seed = ctx.world.seed;
    let volume_file = |id: &str| blocks::file(&ctx.places.volumes(), id);
    let snapshot_file = |id: &str| blocks::file(&ctx.places.snapshots(), id);
    match work.clone() {
        Work::MakeFile { volume, bytes, source, freeze } => {
            let path = volume_file(&volume.id(seed));
            match source {
                Source::Empty => blocking(move || blocks::make_empty(&path, bytes)).await,
                Source::Snapshot(snapshot) => {
                    let from = snapshot_file(&snapshot.id(seed));
                    blocking(move || blocks::make_copy(&from, &path, bytes)).await
                }
                Source::Volume(source) => {
                    let id = source.id(seed);
                    frozen_copy(ctx, &id, &freeze, volume_file(&id), path, bytes).await
                }
            }
        }
        Work::GrowFile { volume, bytes } => {
            let path = volume_file(&volume.id(seed));
            blocking(move || blocks::grow(&path, bytes)).await
        }
        Work::RemoveFile { volume } => {
            let path = volume_file(&volume.id(seed));
            blocking(move || blocks::remove(&path)).await
        }
        Work::CopySnapshot { snapshot, volume, bytes, freeze } => {
            let id = volume.id(seed);
            frozen_copy(ctx, &id, &freeze, volume_file(&id), snapshot_file(&snapshot.id(seed)), bytes).await
        }
        Work::RemoveSnapshot { snapshot } => {
            let path = snapshot_file(&snapshot.id(seed));
            blocking(move || blocks::remove(&path)).await
        }
        Work::RemoveStray { id } => {
            let path = if id.starts_with("snap-") { snapshot_file(&id) } else { volume_file(&id) };
            blocking(move || blocks::remove(&path)).await
        }
        Work::Attach { volume, instance, device, bytes } => {
            let volume_id = volume.id(seed);
            let file = volume_file(&volume_id).display().to_string();
            let device = Device { volume_id, device_name: device, file, size_bytes: bytes };
            call(ctx, &instance, |call| ToAgent::Attach { call, device }).await
        }
        Work::Detach { volume, instance, device, last, force } => {
            let volume_id = volume.id(seed);
            call(ctx, &instance, |call| ToAgent::Detach { call, volume_id, device_name: device, last, force }).await
        }
        Work::Resize { volume, instance, bytes } => {
            let volume_id = volume.id(seed);
            call(ctx, &instance, |call| ToAgent::Resize { call, volume_id, size_bytes: bytes }).await
        }
        Work::DetachStray { instance, volume_id, device } => {
            call(ctx, &instance, |call| ToAgent::Detach { call, volume_id, device_name: device, last: true, force: false }).await
        }
    }
}

async fn call(ctx: &Ctx, instance: &InstanceId, message: impl FnOnce(u64) -> ToAgent) -> Result<(), Failure> {
    ctx.hub.call(instance, message).await.map_err(|error| match error {
        HubError::Lost => Failure::Lost,
        HubError::Device(DeviceError::Busy { holder, .. }) => Failure::Busy { holder },
        HubError::Device(DeviceError::Unsupported { reason }) => Failure::Unsupported { reason },
        HubError::Device(error @ DeviceError::Failed { .. }) => {
            tracing::warn!(%instance, %error, "a device work failed; it is tried again");
            Failure::Failed { message: error.to_string() }
        }
    })
}

/// Copies a volume's file while the file systems on its devices are flushed and stand still, so that the copy is a point in
/// time. Where the file system can share blocks that is a moment; else it is as long as the copy.
async fn frozen_copy(ctx: &Ctx, volume_id: &str, holders: &[InstanceId], from: PathBuf, to: PathBuf, bytes: u64) -> Result<(), Failure> {
    let mut frozen = Vec::new();
    for instance in holders {
        let volume_id = volume_id.to_owned();
        // A device without a mounted file system cannot be frozen, and an agent that is away cannot be asked. EBS does not
        // freeze at all: the copy then is what a crash would have left.
        match call(ctx, instance, |call| ToAgent::Freeze { call, volume_id }).await {
            Ok(()) => frozen.push(instance),
            Err(failure) => tracing::info!(%instance, ?failure, "copying without a freeze"),
        }
    }
    let copied = blocking(move || blocks::make_copy(&from, &to, bytes)).await;
    for instance in frozen {
        let volume_id = volume_id.to_owned();
        if let Err(failure) = call(ctx, instance, |call| ToAgent::Thaw { call, volume_id }).await {
            tracing::warn!(%instance, ?failure, "cannot thaw");
        }
    }
    copied
}

async fn blocking(work: impl FnOnce() -> Result<(), BlockError> + Send + 'static) -> Result<(), Failure> {
    let failed = |message: String| {
        tracing::error!(message, "a work on a file failed");
        Failure::Failed { message }
    };
    match tokio::task::spawn_blocking(work).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(failed(format!("{error}: {}", error.source))),
        Err(error) => Err(failed(error.to_string())),
    }
}
