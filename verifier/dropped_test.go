package verifier

import (
	"context"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/assay-project/assay/verifier/machine"
)

// What nobody judges keeps no place either, whether the round is dropped before its answer comes or after.
func TestDroppedAnswersKeepNoPlace(t *testing.T) {
	for name, settle := range map[string]func(){"before": func() {}, "after": synctest.Wait} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var held atomic.Int32
				collector := collectorFunc(func(context.Context) (Collected, error) {
					held.Add(1)
					return Collected{Release: func() { held.Add(-1) }}, nil
				})
				f := newFleet(t)
				f.cfg.Collector = collector
				f.start()
				w := &worker{v: f.v, timer: time.NewTimer(time.Hour)}
				w.shown.Store(&Node{})
				w.collect(t.Context(), machine.Request{})
				settle()
				w.stopRound()
				synctest.Wait()
				if places := held.Load(); places != 0 {
					t.Errorf("%d places are still taken", places)
				}
				f.end()
			})
		})
	}
}

// collectorFunc is a Collector.
type collectorFunc func(ctx context.Context) (Collected, error)

func (f collectorFunc) Collect(ctx context.Context, _ Enrolment, _ machine.Request) (Collected, error) {
	return f(ctx)
}
