package verifier

import (
	"errors"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/assay-project/assay/verifier/machine"
)

// metrics of the verifier. No string from evidence is ever a label.
type metrics struct {
	rounds      *prometheus.CounterVec
	duration    prometheus.Histogram
	transitions *prometheus.CounterVec
	expired     *prometheus.CounterVec
	cleaned     prometheus.Gauge
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
		expired: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "assay_verifier_expired_total", Help: "What was kept long enough and deleted: boots (their evidence), tokens.",
		}, []string{"what"}),
		cleaned: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "assay_verifier_cleaned_timestamp_seconds", Help: "When everything that had expired was last deleted, in seconds since 1970.",
		}),
	}
	if r != nil {
		r.MustRegister(m.rounds, m.duration, m.transitions, m.expired, m.cleaned)
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

func (m *metrics) transition(t machine.Transition) { m.transitions.WithLabelValues(string(t.To)).Inc() }
