package verifier

import (
	"errors"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics of the verifier. No string from evidence is ever a label.
type metrics struct {
	rounds      *prometheus.CounterVec
	duration    prometheus.Histogram
	transitions *prometheus.CounterVec
}

func newMetrics(r prometheus.Registerer) *metrics {
	m := &metrics{
		rounds: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "assay_verifier_rounds_total", Help: "Rounds by outcome: answered, malformed, unanswered.",
		}, []string{"outcome"}),
		duration: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "assay_verifier_collect_seconds", Help: "Time from asking an agent to its answer.", Buckets: prometheus.ExponentialBuckets(0.01, 3, 9),
		}),
		transitions: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "assay_verifier_transitions_total", Help: "Changes of verdicts by the verdict that was reached.",
		}, []string{"to"}),
	}
	if r != nil {
		r.MustRegister(m.rounds, m.duration, m.transitions)
	}
	return m
}

func (m *metrics) round(took time.Duration, err error) {
	outcome := "answered"
	switch {
	case errors.Is(err, ErrMalformed):
		outcome = "malformed"
	case err != nil:
		outcome = "unanswered"
	}
	m.rounds.WithLabelValues(outcome).Inc()
	m.duration.Observe(took.Seconds())
}

func (m *metrics) transition(t Transition) { m.transitions.WithLabelValues(string(t.To)).Inc() }
