package nodes

import "github.com/prometheus/client_golang/prometheus"

// Metrics count what the operator does to nodes.
type Metrics struct {
	statusWrites *prometheus.CounterVec
	reactions    *prometheus.CounterVec
	serverCalls  *prometheus.CounterVec
	connected    prometheus.Gauge
}

// NewMetrics registers the metrics.
func NewMetrics(r prometheus.Registerer) *Metrics {
	m := &Metrics{
		statusWrites: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "assay_operator_status_writes_total", Help: "Writes of a status, by kind; they happen on transitions only."}, []string{"kind"}),
		reactions:    prometheus.NewCounterVec(prometheus.CounterOpts{Name: "assay_operator_reactions_total", Help: "Reactions carried out, by result: applied, lifted, failed, dryrun."}, []string{"result"}),
		serverCalls:  prometheus.NewCounterVec(prometheus.CounterOpts{Name: "assay_operator_changes_total", Help: "Changes made at the server, by kind: enrol, assign."}, []string{"kind"}),
		connected:    prometheus.NewGauge(prometheus.GaugeOpts{Name: "assay_operator_server_connected", Help: "1 while the server can be read."}),
	}
	r.MustRegister(m.statusWrites, m.reactions, m.serverCalls, m.connected)
	return m
}
