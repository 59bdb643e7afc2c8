//! emulator-kube
