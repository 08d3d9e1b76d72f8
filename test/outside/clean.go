package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/assay-project/assay/lab"
	"github.com/assay-project/assay/lab/cluster"
	"github.com/assay-project/assay/lab/leash"
)

// cleanTime is for the cluster and what is beside it.
const cleanTime = cluster.DownTime + time.Minute

// clean ends what run made and removes its folder. Where there is nothing, it does nothing.
func clean(ctx context.Context, p *place) error {
	if _, err := os.Lstat(p.dir); errors.Is(err, os.ErrNotExist) {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, cleanTime)
	defer cancel()
	_, err := leash.Ask(ctx, p.machineDir(), leash.Request{Ask: askDown})
	if errors.Is(err, leash.ErrNotRunning) {
		err = nil
	}
	errs := []error{err}
	c, err := cluster.Attach(p.clusterDir())
	switch {
	case err == nil:
		errs = append(errs, c.Down(ctx))
	case !errors.Is(err, cluster.ErrNoCluster):
		errs = append(errs, err)
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("clean %s: %w", p.dir, err) // the folder is the only trace of what still runs
	}
	if err := os.RemoveAll(p.dir); err != nil {
		return fmt.Errorf("clean: %w", err)
	}
	p.tell("nothing is left of it")
	return nil
}

// errInUse says that the cache holds something that runs, or that was not taken down.
var errInUse = errors.New("the cache is in use")

// realclean removes the caches too: programs of clusters, packages and trees of machines. They are built and fetched again when they are needed.
// What somebody else has put up in the cache is not ended by it, so it refuses.
func realclean(ctx context.Context, p *place) error {
	if err := clean(ctx, p); err != nil {
		return err
	}
	if err := inUse(); err != nil {
		return err
	}
	cache, err := caches()
	if err != nil {
		return err
	}
	for _, folder := range []string{cache, filepath.Join(p.checkout, ".cache")} {
		if err := os.RemoveAll(folder); err != nil {
			return fmt.Errorf("remove caches: %w", err)
		}
		p.tell("removed %s", folder)
	}
	return nil
}

// inUse names the machines and the cluster of the command line program.
func inUse() error {
	folder, err := lab.Folder("")
	if err != nil {
		return err
	}
	machines, err := lab.List(folder)
	if err != nil {
		return err
	}
	var names []string
	for _, m := range machines {
		names = append(names, "`assay lab down "+m.Name()+"`")
	}
	up, err := cluster.Folder()
	if err != nil {
		return err
	}
	if _, err := cluster.Attach(up); err == nil {
		names = append(names, "`assay lab cluster down`")
	}
	if len(names) > 0 {
		return fmt.Errorf("%w: first %s", errInUse, strings.Join(names, ", "))
	}
	return nil
}
