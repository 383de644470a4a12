# Builds the gateway and copies it into an image that has the C library and certificates but no shell. The gateway does
# not run as root. To use other base images, pass --build-arg BUILD=… and --build-arg RUN=….
ARG BUILD=docker.io/library/rust:1.94-slim-bookworm
ARG RUN=gcr.io/distroless/cc-debian12:nonroot

FROM ${BUILD} AS build
WORKDIR /highwater
# The next lines copy only files that are compiled, so that changes to other files do not invalidate these layers.
COPY Cargo.toml Cargo.lock build.rs ./
COPY .sqlx .sqlx
COPY migrations migrations
COPY proto proto
COPY src src
# The workspace members are not compiled, but Cargo requires their manifests.
COPY benches benches
COPY tests/protocol_model tests/protocol_model
# The image does not need the commands `dev` and `demo`, which start private servers.
RUN cargo build --release --locked --no-default-features --bin highwater

FROM ${RUN}
COPY --from=build /highwater/target/release/highwater /usr/local/bin/highwater
# The user is given by number, so that container engines can verify that it is not root.
USER 65532:65532
# The gateway listens on all addresses of the container, because the way in which the port is published controls the
# access. The admin port stays on loopback. Set HIGHWATER_ADMIN_LISTEN to let Prometheus reach it.
ENV HIGHWATER_LISTEN=0.0.0.0:7070
EXPOSE 7070
STOPSIGNAL SIGTERM
# podman and buildah keep the health check only with --format docker.
HEALTHCHECK --interval=10s --timeout=4s --start-period=10s CMD ["/usr/local/bin/highwater", "healthcheck"]
ENTRYPOINT ["/usr/local/bin/highwater"]
CMD ["serve"]
