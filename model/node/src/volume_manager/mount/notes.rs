//! What a mount tells: the Events of §3.5, in upstream's words.

use super::*;

impl VolumeManager {
    pub(super) fn mount_failed(&mut self, op: &Mount, step: &str, why: &str, out: &mut Vec<Effect>) -> Next {
        out.push(Effect::Record(Event {
            target: Target::Pod(op.want.uid.clone()),
            warning: true,
            reason: if op.spec().block { "FailedMapVolume" } else { "FailedMount" },
            message: match step {
                EXPANDING => format!("{}.Setup failed while expanding volume for volume \"{}\" : {why}", op.prefix(), op.spec().pv),
                _ => format!("{}.{step} failed for volume \"{}\" : {why}", op.prefix(), op.spec().pv),
            },
        }));
        Next::End(End::Failed)
    }

    pub(super) fn note_mapped(&self, op: &Mount, out: &mut Vec<Effect>) {
        let (pv, pod) = (&op.spec().pv, &op.want.uid);
        let global = self.config.layout.block_map(pv, "");
        let link = self.config.layout.block_link(pod, "");
        for (what, path) in [("globalMapPath", global), ("volumeMapPath", link)] {
            out.push(Effect::Record(Event {
                target: Target::Pod(pod.clone()),
                warning: false,
                reason: "SuccessfulMountVolume",
                message: format!("MapVolume.MapPodDevice succeeded for volume \"{pv}\" {what} \"{}\"", path.trim_end_matches('/')),
            }));
        }
    }
}
