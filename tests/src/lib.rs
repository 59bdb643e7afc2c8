//! ebbtide-tests
