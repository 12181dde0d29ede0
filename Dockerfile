# The image of the agent: static programs and nothing else. hack/image makes the same one without Docker.
FROM rust:1.95-slim AS build
WORKDIR /source
COPY . .
RUN target=$(uname -m)-unknown-linux-musl && rustup target add "$target" && \
    cargo build --locked --release --target "$target" -p agent && \
    cargo build --locked --profile hook --target "$target" -p hook && \
    mkdir /image && cp target/"$target"/release/netdevice-agent target/"$target"/hook/netdevice-hook /image && \
    ln -s netdevice-agent /image/network-device-injector && \
    ln -s netdevice-agent /image/dynamic-networks-controller && \
    ln -s netdevice-agent /image/netdevctl && ln -s netdevice-agent /image/if-inject

FROM scratch
COPY --from=build /image/ /
ENV PATH=/bin:/
ENTRYPOINT ["/netdevice-agent"]
