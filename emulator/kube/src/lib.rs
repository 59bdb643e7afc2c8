//! emulator-kube

pub mod controllers;
