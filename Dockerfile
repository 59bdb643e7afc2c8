# ebbtide for machines without Rust. It needs a Linux kernel with loop devices and FUSE (Docker Desktop's VM has both) and runs privileged:
# it makes loop devices, mounts and namespaces.
FROM rust:1.95-bookworm AS build
RUN apt-get update && apt-get install -y --no-install-recommends libclang-14-dev && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY . .
RUN cargo build --release -p ebbtide

FROM debian:bookworm-slim
RUN apt-get update \
 && apt-get install -y --no-install-recommends e2fsprogs xfsprogs util-linux mount ca-certificates \
 && rm -rf /var/lib/apt/lists/*
COPY --from=build /src/target/release/ebbtide /usr/local/bin/ebbtide
VOLUME /var/lib/ebbtide
EXPOSE 4566 6443
# Outside loopback signatures are checked: clients use the keys of `ebbtide env`.
ENTRYPOINT ["ebbtide"]
CMD ["up", "--listen", "0.0.0.0:4566", "--kube-listen", "0.0.0.0:6443", "--auth", "verify"]
HEALTHCHECK --interval=10s --timeout=3s CMD ["ebbtide", "status"]
