//! emulator-node
