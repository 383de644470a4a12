# Builds the gateway, then copies it into an image with the C library and certificates, but without a shell and without
# root. To use other base images: --build-arg BUILD=… --build-arg RUN=….
ARG BUILD=docker.io/library/rust:1.94-slim-bookworm
ARG RUN=gcr.io/distroless/cc-debian12:nonroot

FROM ${BUILD} AS build
WORKDIR /highwater
# Only files that are compiled, so that changes to other files do not invalidate the layer.
COPY Cargo.toml Cargo.lock build.rs ./
COPY .sqlx .sqlx
COPY migrations migrations
COPY proto proto
COPY src src
# Not compiled, but Cargo requires the manifests of all workspace members.
COPY benches benches
COPY tests/protocol_model tests/protocol_model
# Without the commands `dev` and `demo`, which start private servers.
RUN cargo build --release --locked --no-default-features --bin highwater

FROM ${RUN}
COPY --from=build /highwater/target/release/highwater /usr/local/bin/highwater
# By number, so that container engines can verify that the user is not root.
USER 65532:65532
# In a container, access is controlled by how the port is published. The admin port stays on loopback; set
# HIGHWATER_ADMIN_LISTEN to let Prometheus reach it.
ENV HIGHWATER_LISTEN=0.0.0.0:7070
EXPOSE 7070
STOPSIGNAL SIGTERM
# podman and buildah keep the health check only with --format docker.
HEALTHCHECK --interval=10s --timeout=4s --start-period=10s CMD ["/usr/local/bin/highwater", "healthcheck"]
ENTRYPOINT ["/usr/local/bin/highwater"]
CMD ["serve"]
