#!/usr/bin/env bash
# ssh-up.sh DIR PORT [SFTP]: a throw-away sshd on loopback, with a host key, a user key and a client configuration of its
# own (nothing in ~/.ssh is touched). SFTP is the command of its sftp server, such as internal-sftp; it has none without.
# Then: ssh -F DIR/config ci-host CMD; to stop: kill $(cat DIR/sshd.pid)
set -euo pipefail
D=$1 P=$2
mkdir -p "$D"
chmod 700 "$D"
# Where sshd keeps privileges apart, it wants this folder; it cannot be made without being root, and is then not needed.
mkdir -p /run/sshd 2>/dev/null || true
for key in hk id; do [ -f "$D/$key" ] || ssh-keygen -q -t ed25519 -N '' -f "$D/$key"; done
cp "$D/id.pub" "$D/authorized_keys"
cat > "$D/sshd_config" <<C
ListenAddress 127.0.0.1
Port $P
HostKey $D/hk
PidFile $D/sshd.pid
AuthorizedKeysFile $D/authorized_keys
StrictModes no
UsePAM no
PasswordAuthentication no
PermitRootLogin prohibit-password
MaxStartups 100
MaxSessions 100
C
[ -z "${3:-}" ] || echo "Subsystem sftp $3" >> "$D/sshd_config"
cat > "$D/config" <<C
Host ci-host
  HostName 127.0.0.1
  Port $P
Host *
  IdentityFile $D/id
  IdentitiesOnly yes
  UserKnownHostsFile $D/known_hosts
  StrictHostKeyChecking yes
C
echo "[127.0.0.1]:$P $(cut -d' ' -f1,2 "$D/hk.pub")" > "$D/known_hosts"
"$(PATH=$PATH:/usr/sbin command -v sshd)" -f "$D/sshd_config" -E "$D/sshd.log"
for _ in $(seq 200); do [ -s "$D/sshd.pid" ] && break; sleep 0.05; done
ssh -F "$D/config" ci-host true
