//! emulator-aws
