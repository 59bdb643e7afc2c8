//! EFS volumes as a CSI driver makes and publishes them (users.md §2.2): one body for the built-in driver and for the real one, whose
//! binary `EBBTIDE_TEST_EFS_DRIVER` gives. The calls are those of csi-provisioner and the kubelet, to the driver's own socket; the mounts
//! are made by `mount.efs` in the node.

#[path = "efs_driver/fargate.rs"]
mod fargate;
#[path = "efs_driver/network.rs"]
mod network;
#[path = "efs_driver/options.rs"]
mod options;
#[path = "efs_driver/running.rs"]
mod running;
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

/// One test for each driver from each body.
macro_rules! with_both_drivers {
    ($($module:ident: $($body:ident),+;)+) => {
        mod built_in_driver {
            $($(#[test] fn $body() { super::built_in(super::$module::$body) })+)+
        }
        mod real_driver {
            $($(#[test] fn $body() { super::real_with(&[], super::$module::$body) })+)+
        }
    };
}

with_both_drivers! {
    volumes: f01_static, f02_dynamic, f03_many_pods, f04_appenders, f05_two_access_points, f06_path, one_mount_a_target, a_busy_target;
    options: f07_encryption, options_of_the_mount, refusals;
    network: f10_security_group, f11_no_mount_target_in_the_zone, static_mount_target_address;
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
