# What the stand-ins stand on: Python, and aiohttp with what it needs, from the project's own lock. Context: the repository.
ARG PYTHON_IMAGE
FROM ${PYTHON_IMAGE}
COPY requirements.txt /opt/
RUN awk '/^[^ #]/ { wanted = /^(aiohappyeyeballs|aiohttp|aiosignal|attrs|frozenlist|idna|multidict|propcache|typing-extensions|yarl)==/ } wanted' \
      /opt/requirements.txt > /opt/wanted.txt && \
    python3 -m venv /opt/python && \
    /opt/python/bin/python3 -m pip install --no-compile --require-hashes --only-binary :all: -r /opt/wanted.txt && \
    /opt/python/bin/python3 -m pip uninstall --yes pip setuptools && \
    python3 -m compileall -q --invalidation-mode unchecked-hash /opt/python && rm /opt/*.txt
ENV PATH=/opt/python/bin:$PATH
