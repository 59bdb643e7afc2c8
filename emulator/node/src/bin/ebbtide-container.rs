//! The container helper as a program of its own, for the tests of this crate; `ebbtide` has it built in.

fn main() {
    emulator_node::pods::container_init_main()
}
