{{- define "weft.selector" -}}
app.kubernetes.io/name: weft
app.kubernetes.io/component: {{ . }}
{{- end }}

{{- /* Labels of a component's objects: (list $ "agent"). */ -}}
{{- define "weft.labels" -}}
{{- $root := index . 0 -}}
{{ include "weft.selector" (index . 1) }}
app.kubernetes.io/version: {{ $root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ $root.Release.Service }}
{{- end }}

{{- /* A container's image: (list $ "weft"). */ -}}
{{- define "weft.image" -}}
{{- $root := index . 0 -}}
image: {{ printf "%s/%s:%s" $root.Values.image.registry (index . 1) ($root.Values.image.tag | default $root.Chart.AppVersion) | quote }}
imagePullPolicy: {{ $root.Values.image.pullPolicy }}
{{- end }}

{{- define "weft.pullSecrets" -}}
{{- with .Values.image.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . | quote }}
  {{- end }}
{{- end }}
{{- end }}

{{- /* Where the API server is, if nobody serves its Service yet. */ -}}
{{- define "weft.apiServer" -}}
{{- with .Values.kubernetes.apiServer }}
{{- if .host }}
- name: KUBERNETES_SERVICE_HOST
  value: {{ .host | quote }}
- name: KUBERNETES_SERVICE_PORT
  value: {{ .port | quote }}
{{- end }}
{{- end }}
{{- end }}

{{- /* Annotations by which Prometheus finds a pod: (list $ 15020). A ServiceMonitor would scrape it a second time. */ -}}
{{- define "weft.scrape" -}}
{{- with (index . 0).Values.metrics }}
{{- if and .enabled .annotations (not .serviceMonitor.create) }}
annotations:
  prometheus.io/scrape: "true"
  prometheus.io/port: {{ index $ 1 | quote }}
  prometheus.io/path: /metrics
{{- end }}
{{- end }}
{{- end }}

{{- /* Bytes of a quantity with a binary suffix, or without. */ -}}
{{- define "weft.bytes" -}}
{{- $q := toString . -}}
{{- if hasSuffix "Gi" $q }}{{ mul (trimSuffix "Gi" $q) 1073741824 }}
{{- else if hasSuffix "Mi" $q }}{{ mul (trimSuffix "Mi" $q) 1048576 }}
{{- else }}{{ $q }}
{{- end }}
{{- end }}

{{/* A selector of labels, from a map of them. */}}
{{- define "weft.labelSelector" -}}
{{- $labels := list }}
{{- range $key, $value := . }}
{{- $labels = append $labels (printf "%s=%s" $key $value) }}
{{- end }}
{{- join "," $labels }}
{{- end }}
