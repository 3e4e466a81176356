{{- /*
The thresholds of the alerts, as JSON: those of .Values.prometheusRule.thresholds over these. One that is not known fails.
*/}}
{{- define "ticker.thresholds" -}}
{{- $known := dict
  "feedDownFor" "2m"
  "feedAgeSeconds" 60 "feedStaleFor" "2m"
  "feedLag" 50000 "feedLagFor" "5m"
  "badRowsShare" 0.001 "badRowsFor" "10m"
  "tooSlowShare" 0.05 "tooSlowFor" "5m"
  "refusalsPerSecond" 1 "refusingFor" "10m"
  "connectionsMax" (((.Values.settings).connections_max) | default 10000) "capacityShare" 0.8 "nearCapacityFor" "10m"
  "latencySeconds" 0.5 "latencyFor" "10m"
  "notReadyFor" "10m"
  "roundSeconds" 0.05 "slowRoundsFor" "10m"
  "eventLoopDelaySeconds" 0.1 "eventLoopDelayFor" "10m"
  "keysInvalidFor" "5m"
  "memoryBytes" (include "ticker.memoryThreshold" .) "memoryFor" "10m"
  "absentFor" "5m"
}}
{{- range $name, $value := .Values.prometheusRule.thresholds }}
{{- if not (hasKey $known $name) }}
{{- fail (printf "prometheusRule.thresholds.%s: expected one of %s" $name (keys $known | sortAlpha | join ", ")) }}
{{- end }}
{{- $_ := set $known $name $value }}
{{- end }}
{{- /* Numbers that came from a file of values are floats, which would be written as 5e+06. */}}
{{- range $name, $value := $known }}
{{- if kindIs "float64" $value }}
{{- $_ := set $known $name (ternary (printf "%.0f" $value) (toString $value) (eq $value (floor $value))) }}
{{- end }}
{{- end }}
{{- toJson $known }}
{{- end }}

{{- /* Bytes of memory that are nearly too many: 85 % of the container's limit, 1 GiB where there is none. */}}
{{- define "ticker.memoryThreshold" -}}
{{- $limit := (((.Values.resources).limits).memory) | default "" | toString }}
{{- $units := dict "" 1 "k" 1000 "M" 1000000 "G" 1000000000 "T" 1000000000000 "Ki" 1024 "Mi" 1048576 "Gi" 1073741824 "Ti" 1099511627776 }}
{{- if $limit }}
{{- $number := regexFind "^[0-9.]+(e[+]?[0-9]+)?" $limit }}
{{- $unit := get $units (trimPrefix $number $limit) }}
{{- if or (not $number) (not $unit) }}
{{- fail (printf "resources.limits.memory: expected a quantity such as 512Mi or 1.5Gi, was %s" $limit) }}
{{- end }}
{{- mulf $number $unit 0.85 | floor | printf "%.0f" }}
{{- else }}
{{- 1073741824 }}
{{- end }}
{{- end }}
