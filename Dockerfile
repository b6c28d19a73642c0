# A static binary in an otherwise empty image, for linux/amd64 and linux/arm64:
#
#   docker build -t authgate:0.1.0 .
#   docker buildx build --platform linux/amd64,linux/arm64 -t authgate:0.1.0 .

# The build runs on the builder's own architecture and compiles for the image's: emulating the
# compiler would take an hour.
FROM --platform=$BUILDPLATFORM rust:1.95-slim-bookworm AS build
# Set by the builder: amd64 or arm64.
ARG TARGETARCH

# ring has a part in C and assembly. clang compiles it for either architecture, given musl's headers, whose
# package is that of the target (Debian names the two architectures as Docker does).
RUN dpkg --add-architecture "$TARGETARCH" \
 && apt-get update \
 && apt-get install --yes --no-install-recommends ca-certificates clang llvm "musl-dev:$TARGETARCH" \
 && rm -rf /var/lib/apt/lists/*

RUN case "$TARGETARCH" in \
      amd64) echo x86_64-unknown-linux-musl ;; \
      arm64) echo aarch64-unknown-linux-musl ;; \
      *) echo "no image for $TARGETARCH" >&2; exit 1 ;; \
    esac > /target \
 && rustup target add "$(cat /target)"

# clang must not find the builder's own C library. Rust brings musl and a linker for both targets.
ENV CC_x86_64_unknown_linux_musl=clang \
    CC_aarch64_unknown_linux_musl=clang \
    AR_x86_64_unknown_linux_musl=llvm-ar \
    AR_aarch64_unknown_linux_musl=llvm-ar \
    CFLAGS_x86_64_unknown_linux_musl="-nostdlibinc -isystem /usr/include/x86_64-linux-musl" \
    CFLAGS_aarch64_unknown_linux_musl="-nostdlibinc -isystem /usr/include/aarch64-linux-musl" \
    RUSTFLAGS="-Clink-self-contained=yes -Clinker=rust-lld"

WORKDIR /source
# Cargo wants to see the benchmark that the manifest names, although it builds the program only.
COPY Cargo.toml Cargo.lock ./
COPY src src
# The schema takes its words from it.
COPY config/reference.toml config/
COPY benches benches
# Two architectures are built at the same time, and Cargo's lock is not in the registry's directory: each has its own.
RUN --mount=type=cache,target=/usr/local/cargo/registry,id=authgate-registry-$TARGETARCH \
    --mount=type=cache,target=/source/target,id=authgate-$TARGETARCH \
    cargo build --profile dist --locked --bin authgate --target "$(cat /target)" \
 && install -D "target/$(cat /target)/dist/authgate" /image/authgate \
 && install -D --mode=644 /etc/ssl/certs/ca-certificates.crt /image/etc/ssl/certs/ca-certificates.crt


FROM scratch
# The repository that the image is built from: --build-arg SOURCE=…
ARG SOURCE=""
ARG VERSION=0.1.0
LABEL org.opencontainers.image.title="authgate" \
      org.opencontainers.image.description="Authenticating reverse proxy: verifies Auth0 access tokens in front of an AI-agent backend" \
      org.opencontainers.image.source="$SOURCE" \
      org.opencontainers.image.licenses="MIT OR Apache-2.0" \
      org.opencontainers.image.version="$VERSION"

COPY --from=build /image/ /
COPY LICENSE LICENSE-APACHE LICENSE-MIT /licenses/

# A number, so that Kubernetes can see that it is not root. The program writes nothing.
USER 65532:65532
# Clients, and probes.
EXPOSE 8080 9090
# Drains: see [timeouts] linger and drain.
STOPSIGNAL SIGTERM
# Healthy is ready. Kubernetes has probes of its own and ignores this.
HEALTHCHECK --interval=10s --timeout=3s --start-period=30s --retries=3 CMD ["/authgate", "healthcheck"]
ENTRYPOINT ["/authgate"]
