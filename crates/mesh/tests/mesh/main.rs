//! Links between namespaces, with real interfaces and sockets; and the whole suite once more in a virtual
//! machine of the lab, whose kernel has WireGuard. Needs root, the `atoll-lab` program, and a folder made
//! by `worlds/fetch-vm.sh` named in `ATOLL_LAB_VM`.

mod changes;
mod hostile;
mod kernels;
mod many;
mod namespace;
mod pass;
mod place;
mod reach;
mod relays;
mod traffic;
