package lab

import (
	"context"
	"path/filepath"

	"github.com/assay-project/assay/lab/leash"
)

// Exclusive waits for the one place that tests with machines have on a host, over all processes: two emulated machines starve each other. The
// place is free again after release, or with the end of the process.
func Exclusive(ctx context.Context) (release func() error, err error) {
	cache, err := cacheFolder()
	if err != nil {
		return nil, err
	}
	return leash.Lock(ctx, filepath.Join(cache, "lock"))
}
