package agent

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics of the agent. No string from outside is ever a label.
type metrics struct {
	quotes        *prometheus.CounterVec
	quoteSeconds  prometheus.Histogram
	registrations *prometheus.CounterVec
	heartbeats    *prometheus.CounterVec
	listEntries   prometheus.Gauge
}

func newMetrics(r prometheus.Registerer) *metrics {
	m := &metrics{
		quotes: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "assay_agent_quotes_total", Help: "Quotes by outcome: made, failed.",
		}, []string{"outcome"}),
		quoteSeconds: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "assay_agent_quote_seconds", Help: "Time that the TPM took for a quote.", Buckets: prometheus.ExponentialBuckets(0.01, 2, 10),
		}),
		registrations: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "assay_agent_registrations_total", Help: "Registrations by outcome: made, failed.",
		}, []string{"outcome"}),
		heartbeats: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "assay_agent_heartbeats_total", Help: "Heartbeats by outcome: made, failed.",
		}, []string{"outcome"}),
		listEntries: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "assay_agent_list_entries", Help: "Entries of the measurement list at the last quote.",
		}),
	}
	if r != nil {
		r.MustRegister(m.quotes, m.quoteSeconds, m.registrations, m.heartbeats, m.listEntries)
	}
	return m
}

// quoteStarted returns what is called when the quote is made or not.
func (m *metrics) quoteStarted() func(error) {
	start := time.Now()
	return func(err error) {
		m.quotes.WithLabelValues(outcome(err)).Inc()
		m.quoteSeconds.Observe(time.Since(start).Seconds())
	}
}

func outcome(err error) string {
	if err != nil {
		return "failed"
	}
	return "made"
}
