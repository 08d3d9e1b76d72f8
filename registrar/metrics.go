package registrar

import "github.com/prometheus/client_golang/prometheus"

// metrics of the registrar. No string from an agent is ever a label.
type metrics struct {
	requests *prometheus.CounterVec
	records  *prometheus.GaugeVec
}

func newMetrics(r prometheus.Registerer) *metrics {
	m := &metrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "assay_registrar_requests_total", Help: "Requests by action and by status class (2xx, 4xx, 5xx).",
		}, []string{"action", "class"}),
		records: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "assay_registrar_records", Help: "Records of the kinds whose number is bounded: unproven, waiting, unendorsed.",
		}, []string{"kind"}),
	}
	if r != nil {
		r.MustRegister(m.requests, m.records)
	}
	return m
}

func (m *metrics) request(action string, status int) {
	m.requests.WithLabelValues(action, string(rune('0'+status/100))+"xx").Inc()
}

func (m *metrics) kept(c Counts) {
	m.records.WithLabelValues("unproven").Set(float64(c.Unproven))
	m.records.WithLabelValues("waiting").Set(float64(c.Waiting))
	m.records.WithLabelValues("unendorsed").Set(float64(c.Unendorsed))
}
