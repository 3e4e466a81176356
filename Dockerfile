# The service with its dashboard. `docker build -t ticker .` or `buildah build -t ticker .`; docs/deploy.md says how to run it.
#
# Images are pinned by digest, and their tags say which they are. 3.13 is the newest Python for which every library here has long
# had wheels, and slim (Debian, glibc) is where those wheels run as they are: nothing is compiled. To renew a pin, put in
# what `buildah manifest inspect` or `docker buildx imagetools inspect` prints for the new tag.
ARG PYTHON_IMAGE=docker.io/library/python:3.13.15-slim-trixie@sha256:7c61056e61ac89e852de05f3dc6fa51a6dd2181797bceed46aa725dd7cb2cd3b
ARG NODE_IMAGE=docker.io/library/node:24.21.0-bookworm-slim@sha256:0e0ff40c39bc087845bfb27465a0df4ea419520094bc35842ff83dd8cbe6f9b6

FROM ${NODE_IMAGE} AS web
WORKDIR /src/ticker/web
COPY ticker/web/package.json ticker/web/package-lock.json ticker/web/.npmrc ./
COPY ticker/web/sdk/package.json sdk/
COPY ticker/web/dashboard/package.json dashboard/
RUN npm ci --no-progress
COPY ticker/web ./
RUN npm run build --workspace sdk && npm run build --workspace dashboard && cp sdk/dist/ticker.js static/

FROM ${PYTHON_IMAGE} AS build
# Extras of pyproject.toml, with commas between: dbn, otel or all.
ARG EXTRAS=""
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /src
COPY constraints.txt ./
RUN python -m venv /opt/pip && /opt/pip/bin/python -m pip install --constraint constraints.txt pip
COPY pyproject.toml README.md LICENSE ./
COPY feeds feeds
COPY ticker ticker
COPY --from=web /src/ticker/web/static ticker/web/static
RUN /opt/pip/bin/python -m pip wheel --no-deps --build-constraint constraints.txt --wheel-dir /opt/wheel .
RUN python -m venv --without-pip /opt/ticker \
  && set -- /opt/wheel/*.whl \
  && /opt/pip/bin/python -m pip --python /opt/ticker/bin/python install --no-compile --only-binary :all: \
    --constraint constraints.txt "$1${EXTRAS:+[$EXTRAS]}"
# Less what the service never loads of pyarrow: headers, tests, and the clients of Flight and S3. Then bytecode, for a read-only tree.
RUN set -- /opt/ticker/lib/python*/site-packages/pyarrow \
  && rm -r "$1"/include "$1"/tests "$1"/*flight* "$1"/libarrow_s3* "$1"/_s3fs* \
  && /opt/ticker/bin/python -m compileall -q -j 0 --invalidation-mode unchecked-hash /opt/ticker/lib

FROM ${PYTHON_IMAGE}
ARG VERSION=0.1.0
ARG REVISION=""
ARG SOURCE=""
LABEL org.opencontainers.image.title="ticker" \
  org.opencontainers.image.description="A live market-data ticker: price streams in, NumPy state, conflated per-symbol deltas out over WebSockets." \
  org.opencontainers.image.licenses="Apache-2.0" \
  org.opencontainers.image.version="${VERSION}" \
  org.opencontainers.image.revision="${REVISION}" \
  org.opencontainers.image.source="${SOURCE}"
RUN ["python", "-m", "pip", "uninstall", "--yes", "--quiet", "--root-user-action=ignore", "pip"]
COPY --from=build /opt/ticker /opt/ticker
ENV PATH=/opt/ticker/bin:$PATH PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 TICKER_HOST=0.0.0.0
USER 10001:10001
WORKDIR /tmp
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=60s \
  CMD ["python", "-c", "import os, urllib.request as r; r.urlopen(f\"http://127.0.0.1:{os.environ.get('TICKER_PORT', '8000')}/livez\", timeout=2)"]
ENTRYPOINT ["ticker"]
CMD ["serve"]
