// Command outside tries the case in which the control plane runs outside of the cluster, on one machine:
//
//	run        starts a lab cluster of two nodes, each with a TPM of its own, and beside it a server in a network namespace of its own
//	verify     both nodes are Trusted, reached by their host names; with the two names swapped both fail by key; put right, both are Trusted
//	e2e        run, verify, clean
//	clean      ends and removes what run made
//	realclean  clean, and removes what this project keeps in the user's cache folder
//
// The cluster gets what a cluster elsewhere would: an address, a join token with the pin of the CA, and a certificate of the role operator. The
// server knows the nodes by its own hosts file alone. Everything lies in one folder, so the verbs are runs of their own.
//
// It needs root and a checkout with `make build helm` done, trusts both, and proves nothing about the host: the TPMs are emulated, and marked so.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/assay-project/assay/lab"
)

func main() {
	runMachine()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := command(ctx, os.Args[1:], os.Stdout)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "outside:", err)
		os.Exit(1)
	}
}

// verbs are what the program does. The host's one place for tests with machines is theirs meanwhile.
func verbs() map[string]func(context.Context, *place) error {
	return map[string]func(context.Context, *place) error{"run": run, "verify": verify, "e2e": e2e, "clean": clean, "realclean": realclean}
}

func command(ctx context.Context, args []string, out io.Writer) error {
	flags := flag.NewFlagSet("outside", flag.ContinueOnError)
	flags.SetOutput(out)
	dir := flags.String("dir", "", "folder of what runs (default: one in the user's cache)")
	checkout := flags.String("checkout", ".", "the checkout of this repository")
	build := flags.String("build", "", "folder of programs and images (default: build in the checkout)")
	if err := flags.Parse(args); err != nil {
		return err
	}
	do, known := verbs()[flags.Arg(0)]
	if !known || flags.NArg() != 1 {
		return fmt.Errorf("%q: want one of %s", strings.Join(flags.Args(), " "), strings.Join(sorted(verbs()), ", "))
	}
	p, err := newPlace(place{dir: *dir, checkout: *checkout, build: *build, out: out})
	if err != nil {
		return err
	}
	if flags.Arg(0) != "clean" { // what is to be ended may be in somebody's way
		release, err := lab.Exclusive(ctx)
		if err != nil {
			return err
		}
		defer release() // the end of the process does it too
	}
	p.start = time.Now()
	return do(ctx, p)
}

func sorted[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for key := range m {
		keys = append(keys, key)
	}
	slices.Sort(keys)
	return keys
}

// place is where things lie, and where the story is told.
type place struct {
	// dir holds everything that run makes; it has the subfolders cluster and machine.
	dir, checkout, build string
	out                  io.Writer
	start                time.Time
}

func newPlace(p place) (*place, error) {
	if p.dir == "" {
		cache, err := caches()
		if err != nil {
			return nil, err
		}
		p.dir = filepath.Join(cache, "outside")
	}
	if p.build == "" {
		p.build = filepath.Join(p.checkout, "build")
	}
	for _, path := range []*string{&p.dir, &p.checkout, &p.build} {
		abs, err := filepath.Abs(*path)
		if err != nil {
			return nil, fmt.Errorf("find folder %s: %w", *path, err)
		}
		*path = abs
	}
	p.start = time.Now()
	return &p, nil
}

// caches is the folder of everything that this project keeps in the user's cache folder.
func caches() (string, error) {
	base, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("find the cache folder: %w", err)
	}
	return filepath.Join(base, "assay"), nil
}

func (p *place) clusterDir() string { return filepath.Join(p.dir, "cluster") }
func (p *place) machineDir() string { return filepath.Join(p.dir, "machine") }
func (p *place) home() string       { return filepath.Join(p.dir, "home") }

// tell prints a line of the story with the seconds since its beginning.
func (p *place) tell(format string, args ...any) {
	fmt.Fprintf(p.out, "%6.1f s  %s\n", time.Since(p.start).Seconds(), fmt.Sprintf(format, args...))
}

// e2e is run and verify, and leaves nothing behind in either case.
func e2e(ctx context.Context, p *place) (err error) {
	defer func() { err = errors.Join(err, clean(context.WithoutCancel(ctx), p)) }()
	if err := run(ctx, p); err != nil {
		return err
	}
	return verify(ctx, p)
}
