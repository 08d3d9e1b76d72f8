{{- /* What a schema cannot say clearly: values that belong together. */ -}}
{{- define "assay.checks" -}}
{{- $v := .Values }}
{{- if not (regexMatch "^(|[a-zA-Z0-9][a-zA-Z0-9.-]*(:[0-9]+)?(/[a-z0-9][a-z0-9._-]*)*)$" $v.images.registry) }}
{{- fail (printf "images.registry: %q is not host[:port][/path], without a scheme" $v.images.registry) }}
{{- end }}
{{- range $key, $value := dict "server.interval" $v.server.interval "certificates.overlap" $v.certificates.overlap "agent.heartbeat" $v.agent.heartbeat }}
{{- if not (regexMatch "^([0-9]+(\\.[0-9]+)?(ms|s|m|h))+$" $value) }}
{{- fail (printf "%s: %q is not a duration, such as 30s, 5m or 1h30m" $key $value) }}
{{- end }}
{{- end }}
{{- if and (eq $v.agent.tpm "Emulated") (not $v.agent.emulatedNodeSelector) }}
{{- fail "agent.tpm is Emulated: name the nodes that get an emulated TPM in agent.emulatedNodeSelector, as in kubernetes.io/hostname: laptop" }}
{{- end }}
{{- if and (ne $v.agent.tpm "Emulated") $v.agent.emulatedNodeSelector }}
{{- fail "agent.emulatedNodeSelector is set and agent.tpm is Device: set agent.tpm to Emulated, or leave the selector out" }}
{{- end }}
{{- if and (eq $v.agent.contact "NodeName") (not $v.agent.hostNetwork) }}
{{- fail "agent.contact is NodeName and agent.hostNetwork is false: a node's name does not lead to its pods; set agent.hostNetwork to true" }}
{{- end }}
{{- if and (eq $v.certificates.source "CertManager") (not $v.certificates.certManager) }}
{{- fail "certificates.source is CertManager: name the issuers in certificates.certManager.servers and certificates.certManager.clients" }}
{{- end }}
{{- if and (ne $v.certificates.source "CertManager") $v.certificates.certManager }}
{{- fail (printf "certificates.certManager is set and certificates.source is %s: set the source to CertManager" $v.certificates.source) }}
{{- end }}
{{- with $v.certificates.certManager }}
{{- if and (eq .servers.name .clients.name) (eq (.servers.kind | default "Issuer") (.clients.kind | default "Issuer")) }}
{{- fail (printf "certificates.certManager: servers and clients both name the issuer %s; who may be a server must not be able to be a client" .servers.name) }}
{{- end }}
{{- end }}
{{- if and (eq $v.certificates.source "Secrets") (not $v.certificates.secrets) }}
{{- fail "certificates.source is Secrets: name them in certificates.secrets.server, .verifier and .operator" }}
{{- end }}
{{- if and (ne $v.certificates.source "Secrets") $v.certificates.secrets }}
{{- fail (printf "certificates.secrets is set and certificates.source is %s: set the source to Secrets" $v.certificates.source) }}
{{- end }}
{{- if and $v.server.service.nodePorts (eq $v.server.service.type "ClusterIP") }}
{{- fail "server.service.nodePorts is set and server.service.type is ClusterIP: set the type to NodePort or LoadBalancer" }}
{{- end }}
{{- if and $v.server.storage.existingClaim $v.server.storage.className }}
{{- fail (printf "server.storage.existingClaim %s has its own class: leave server.storage.className out" $v.server.storage.existingClaim) }}
{{- end }}
{{- end }}
