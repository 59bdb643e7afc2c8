//! EFS volumes as a CSI driver makes and publishes them (users.md §2.2): one body for the built-in driver and for the real one, whose
//! binary `EBBTIDE_TEST_EFS_DRIVER` gives. The calls are those of csi-provisioner and the kubelet, to the driver's own socket; the mounts
//! are made by `mount.efs` in the node: ebbtide's own, or the real one of the efs-utils that `EBBTIDE_TEST_EFS_UTILS` gives (`--faithful`).

#[path = "efs_driver/fargate.rs"]
mod fargate;
#[path = "efs_driver/network.rs"]
mod network;
#[path = "efs_driver/options.rs"]
mod options;
#[path = "efs_driver/running.rs"]
mod running;
#[path = "efs_driver/utils.rs"]
mod utils;
#[path = "efs_driver/volumes.rs"]
mod volumes;

use ebbtide_tests::{Ebbtide, root};
use running::{BINARY, Driver, Which};

/// Runs a body with the built-in driver.
fn built_in(body: fn(&Driver<'_>)) {
    if root() {
        let ebbtide = Ebbtide::up(&[]);
        body(&Driver::start(&ebbtide, Which::BuiltIn));
    }
}

/// Runs a body with the real driver, started with further arguments.
fn real_with(args: &'static [&'static str], body: fn(&Driver<'_>)) {
    if std::env::var_os(BINARY).is_none() {
        eprintln!("skipped: no driver binary ({BINARY})");
    } else if root() {
        let ebbtide = Ebbtide::up(&[]);
        body(&Driver::start(&ebbtide, Which::Real(args)));
    }
}

/// Runs a body with the real `mount.efs` under the built-in driver.
fn real_helper(body: fn(&Driver<'_>)) {
    let Some(faithful) = running::faithful() else { return };
    if root() {
        let ebbtide = Ebbtide::up(&[&faithful]);
        body(&Driver::start(&ebbtide, Which::BuiltIn));
    }
}

/// Runs a body with the real driver over the real `mount.efs`: nothing on the node's side but the tunnel and the mount is ours.
fn real_both(body: fn(&Driver<'_>)) {
    let Some(faithful) = running::faithful() else { return };
    if std::env::var_os(BINARY).is_none() {
        eprintln!("skipped: no driver binary ({BINARY})");
    } else if root() {
        // Each driver has a watchdog; two of them would watch the same state.
        let ebbtide = Ebbtide::up(&[&faithful, "--drivers=-efs.csi.aws.com"]);
        body(&Driver::start(&ebbtide, Which::Real(&[])));
    }
}

/// One test for each driver over each `mount.efs` from each body.
macro_rules! with_all_drivers {
    ($($module:ident: $($body:ident),+;)+) => {
        mod built_in_driver {
            $($(#[test] fn $body() { super::built_in(super::$module::$body) })+)+
        }
        mod real_driver {
            $($(#[test] fn $body() { super::real_with(&[], super::$module::$body) })+)+
        }
        mod real_helper {
            $($(#[test] fn $body() { super::real_helper(super::$module::$body) })+)+
        }
        mod real_driver_and_helper {
            $($(#[test] fn $body() { super::real_both(super::$module::$body) })+)+
        }
    };
}

with_all_drivers! {
    volumes: f01_static, f02_dynamic, f03_many_pods, f04_appenders, f05_two_access_points, f06_path, one_mount_a_target, a_busy_target;
    options: f07_encryption, options_of_the_mount, refusals;
    network: f10_security_group, f11_no_mount_target_in_the_zone, static_mount_target_address;
}

#[test]
fn the_state_of_a_mount_is_what_efs_utils_writes() {
    real_helper(utils::state_of_a_mount);
}

#[test]
fn the_real_watchdog_keeps_the_tunnel_of_a_mount() {
    real_helper(utils::watchdog);
}

#[test]
fn the_real_helper_without_efs_utils_says_what_to_install() {
    utils::missing();
}

/// Only a driver that is a process of its own can be restarted.
#[test]
fn a_writer_survives_20_restarts_of_the_real_driver() {
    real_with(&[], volumes::a_writer_survives_20_restarts);
}

#[test]
fn f13_the_real_driver_deletes_the_root_directory() {
    real_with(&["--delete-access-point-root-dir=true"], volumes::f13_root_directory_deleted);
}

/// No driver's controller, as nothing is installed there; the node's own plugin is the built-in one.
#[test]
fn f12_fargate_has_static_volumes_only() {
    if root() {
        fargate::static_volumes_only(&Ebbtide::up(&["--controllers=-provisioner"]));
    }
}
