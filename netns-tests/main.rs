//! The gateway among real clients and servers in network namespaces.

fn main() {}
