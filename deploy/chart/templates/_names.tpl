{{- /* Labels of everything in this release. */ -}}
{{- define "assay.labels" -}}
app.kubernetes.io/name: assay
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/part-of: assay
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end }}

{{- define "assay.operatorSelector" -}}
app.kubernetes.io/name: assay
app.kubernetes.io/component: operator
{{- end }}

{{- /* The reference of an image: (list . "agent" "assay-agent"). */ -}}
{{- define "assay.image" -}}
{{- $root := index . 0 }}{{ $key := index . 1 }}{{ $name := index . 2 }}
{{- $images := $root.Values.images }}
{{- with index $images $key }}{{ . }}{{ else -}}
{{- if not $images.registry }}{{ fail (printf "images.registry is empty: give the registry that make publish pushed to, as in --set images.registry=registry.example/assay; or images.%s by itself" $key) }}{{ end -}}
{{ $images.registry }}/{{ $name }}:{{ $images.tag | default $root.Chart.AppVersion }}
{{- end }}
{{- end }}

{{- /* What operator and clean-up are told of this release. */ -}}
{{- define "assay.operatorEnvironment" -}}
- name: ASSAY_NAMESPACE
  valueFrom: {fieldRef: {fieldPath: metadata.namespace}}
- {name: ASSAY_VALUES, value: assay-values}
- {name: ASSAY_IMAGES_SERVER, value: {{ include "assay.image" (list . "server" "assay") | quote }}}
- {name: ASSAY_IMAGES_AGENT, value: {{ include "assay.image" (list . "agent" "assay-agent") | quote }}}
- {name: ASSAY_IMAGES_OPERATOR, value: {{ include "assay.image" (list . "operator" "assay-operator") | quote }}}
- {name: ASSAY_IMAGES_SWTPM, value: {{ include "assay.image" (list . "swtpm" "assay-swtpm") | quote }}}
- {name: ASSAY_LOGLEVEL, value: {{ .Values.operator.logLevel | quote }}}
{{- end }}

{{- define "assay.podSecurity" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
seccompProfile: {type: RuntimeDefault}
{{- end }}

{{- define "assay.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end }}

{{- /* Where a pod of the operator runs, and with which rank. */ -}}
{{- define "assay.placement" -}}
{{- with .Values.images.pullSecrets }}
imagePullSecrets:
{{- range . }}
  - name: {{ . }}
{{- end }}
{{- end }}
{{- with .Values.operator.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
nodeSelector:
  {{- toYaml (merge (dict "kubernetes.io/os" "linux") .Values.operator.nodeSelector) | nindent 2 }}
{{- with .Values.operator.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}
