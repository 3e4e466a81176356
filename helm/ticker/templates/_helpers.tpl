{{- define "ticker.name" -}}
{{- .Values.nameOverride | default .Chart.Name | trunc 63 | trimSuffix "-" }}
{{- end }}

{{- define "ticker.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 63 | trimSuffix "-" }}
{{- else if contains (include "ticker.name" .) .Release.Name }}
{{- .Release.Name | trunc 63 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name (include "ticker.name" .) | trunc 63 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{- define "ticker.selectorLabels" -}}
app.kubernetes.io/name: {{ include "ticker.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "ticker.labels" -}}
{{ include "ticker.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end }}

{{- define "ticker.serviceAccount" -}}
{{- if .Values.serviceAccount.create }}
{{- .Values.serviceAccount.name | default (include "ticker.fullname" .) }}
{{- else }}
{{- .Values.serviceAccount.name | default "default" }}
{{- end }}
{{- end }}

{{- define "ticker.image" -}}
{{- if .Values.image.digest }}
{{- printf "%s@%s" .Values.image.repository .Values.image.digest }}
{{- else }}
{{- printf "%s:%s" .Values.image.repository (.Values.image.tag | default .Chart.AppVersion) }}
{{- end }}
{{- end }}

{{- /* A setting, or a default where the service's own is to count: number after number, for reckoning. */}}
{{- define "ticker.port" -}}
{{- ternary 8000 .Values.settings.port (kindIs "invalid" .Values.settings.port) | int }}
{{- end }}
{{- define "ticker.internalPort" -}}
{{- ternary 0 .Values.settings.internal_port (kindIs "invalid" .Values.settings.internal_port) | int }}
{{- end }}
{{- define "ticker.metricsPort" -}}
{{- if gt (include "ticker.internalPort" . | int) 0 }}internal{{ else }}http{{ end }}
{{- end }}

{{- /* The setting of each secret, and the file that it is mounted as: setting, volume and path, for each that is given. */}}
{{- define "ticker.secretFiles" -}}
{{- $settings := dict "kafkaPassword" "kafka_password_file" "kafkaCa" "kafka_ca_file" "kafkaCert" "kafka_cert_file" "kafkaKey" "kafka_key_file" "jwtKeys" "jwt_keys_file" "apiKeys" "api_keys_file" }}
{{- $found := list }}
{{- range $value := keys .Values.secrets | sortAlpha }}
{{- $secret := get $.Values.secrets $value }}
{{- if $secret.name }}
{{- $setting := get $settings $value }}
{{- if get $.Values.settings $setting }}
{{- fail (printf "secrets.%s sets settings.%s: expected only one of them" $value $setting) }}
{{- end }}
{{- $volume := $value | kebabcase }}
{{- $found = append $found (dict "setting" $setting "volume" $volume "secret" $secret.name "key" $secret.key "folder" (printf "/etc/ticker/%s" $volume)) }}
{{- end }}
{{- end }}
{{- dict "files" $found | toJson }}
{{- end }}

{{- /* Seconds from when a pod is told to stop to when it has certainly ended, and a few more. */}}
{{- define "ticker.drainSeconds" -}}
{{- $delay := .Values.settings.drain_delay_s | default 0 | float64 }}
{{- $spread := ternary 2.0 .Values.settings.drain_spread_s (kindIs "invalid" .Values.settings.drain_spread_s) | float64 }}
{{- $rest := ternary 5.0 .Values.settings.shutdown_s_max (kindIs "invalid" .Values.settings.shutdown_s_max) | float64 }}
{{- addf .Values.preStopSleepSeconds $delay $spread $rest 5 | ceil | int }}
{{- end }}
{{- define "ticker.gracePeriod" -}}
{{- $needed := include "ticker.drainSeconds" . | int }}
{{- $given := .Values.terminationGracePeriodSeconds }}
{{- if kindIs "invalid" $given }}
{{- $needed }}
{{- else if lt ($given | int) $needed }}
{{- fail (printf "terminationGracePeriodSeconds: expected at least %d, for preStopSleepSeconds, drain_delay_s, drain_spread_s, shutdown_s_max and 5 s to spare, was %d" $needed ($given | int)) }}
{{- else }}
{{- $given | int }}
{{- end }}
{{- end }}

{{- /* What does not go together. */}}
{{- define "ticker.check" -}}
{{- if and .Values.hpa.enabled .Values.keda.enabled }}
{{- fail "hpa.enabled and keda.enabled: expected only one of them to scale the pods" }}
{{- end }}
{{- if and .Values.serviceMonitor.enabled .Values.podMonitor.enabled }}
{{- fail "serviceMonitor.enabled and podMonitor.enabled: expected only one of them, or all is counted twice" }}
{{- end }}
{{- if and .Values.ingress.enabled (not .Values.ingress.hosts) }}
{{- fail "ingress.hosts: expected at least one host, because ingress.enabled is true" }}
{{- end }}
{{- if and .Values.httpRoute.enabled (not .Values.httpRoute.parentRefs) }}
{{- fail "httpRoute.parentRefs: expected at least one gateway, because httpRoute.enabled is true" }}
{{- end }}
{{- range $name := list "hpa" "keda" }}
{{- $scaler := get $.Values $name }}
{{- if $scaler.enabled }}
{{- if and (kindIs "invalid" $scaler.cpu) (kindIs "invalid" $scaler.connections) }}
{{- fail (printf "%s.cpu and %s.connections: expected at least one of them to scale by" $name $name) }}
{{- end }}
{{- if gt ($scaler.minReplicas | int) ($scaler.maxReplicas | int) }}
{{- fail (printf "%s.minReplicas: expected at most maxReplicas (%d), was %d" $name ($scaler.maxReplicas | int) ($scaler.minReplicas | int)) }}
{{- end }}
{{- if and (not (kindIs "invalid" $scaler.cpu)) (not (($.Values.resources.requests).cpu)) }}
{{- fail (printf "resources.requests.cpu: expected one, because %s.cpu is a share of it" $name) }}
{{- end }}
{{- end }}
{{- end }}
{{- if eq (include "ticker.port" . | int) (include "ticker.internalPort" . | int) }}
{{- fail "settings.internal_port: expected another port than settings.port" }}
{{- end }}
{{- if or (include "ticker.port" . | int | lt 65535) (include "ticker.port" . | int | eq 0) }}
{{- fail "settings.port: expected 1 to 65535 in a cluster" }}
{{- end }}
{{- end }}
