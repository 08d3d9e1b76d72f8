// Command tiers runs the project's tests tier by tier, prints what failed and how long each tier took, and fails when a tier ran no
// test or, under CI, when a test was skipped.
//
//	go run ./test/tiers [-fuzz 3m] [TIER...]
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"strings"
	"time"
)

// tier is a set of packages that need the same of a machine.
type tier struct {
	name string
	// packages are patterns; without takes away those of later tiers.
	packages, without []string
	flags             []string
	// prepare is a command that runs from the start, with low priority, while earlier tiers do.
	prepare []string
}

const module = "github.com/assay-project/assay/"

func tiers() []tier {
	integration := []string{"./tpm/...", "./internal/swtpm/...", "./agent/...", "./cmd/assay-agent/...", "./deploy/images/...", "./test/integration/..."}
	lab := []string{"./lab/...", "./test/lab/..."}
	cluster := []string{"./test/cluster/...", "./test/chart/...", "./test/e2e/...", "./test/forms/...", "./test/quickstart/...", "./test/outside/...", "./test/scale/..."}
	return []tier{
		{name: "unit", packages: []string{"./..."}, without: slices.Concat(integration, lab, cluster), flags: []string{"-race", "-timeout=10m"}},
		{name: "integration", packages: integration, flags: []string{"-timeout=15m"}},
		{name: "lab", packages: lab, flags: []string{"-p=1", "-timeout=25m"}},
		{name: "cluster", packages: cluster, flags: []string{"-p=1", "-timeout=60m"}, prepare: []string{"make", "--no-print-directory", "cluster-parts"}},
	}
}

func main() {
	fuzz := flag.Duration("fuzz", 0, "also fuzz, for this long in all")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	wanted := map[string]bool{}
	for _, name := range flag.Args() {
		wanted[name] = true
	}
	rows := runAll(ctx, slices.DeleteFunc(tiers(), func(t tier) bool { return len(wanted) > 0 && !wanted[t.name] }))
	if *fuzz > 0 {
		rows = append(rows, fuzzAll(ctx, *fuzz))
	}
	if !report(rows) {
		os.Exit(1)
	}
}

// row is what a tier came to.
type row struct {
	tier                 string
	tests, failed, skips int
	skipped              []string
	took                 time.Duration
	broken               error // the tier itself could not run
}

func (r row) ok() bool {
	return r.broken == nil && r.failed == 0 && r.tests > 0 && (os.Getenv("CI") == "" || r.skips == 0)
}

func report(rows []row) bool {
	good := true
	fmt.Printf("\n%-12s %7s %7s %8s %8s  %s\n", "TIER", "TESTS", "FAILED", "SKIPPED", "SECONDS", "")
	for _, r := range rows {
		word := "ok"
		switch {
		case r.broken != nil:
			word = r.broken.Error()
		case r.tests == 0:
			word = "ran no test"
		case !r.ok():
			word = "FAILED"
		}
		good = good && r.ok()
		fmt.Printf("%-12s %7d %7d %8d %8.0f  %s\n", r.tier, r.tests, r.failed, r.skips, r.took.Seconds(), word)
		if len(r.skipped) > 0 {
			fmt.Printf("             skipped: %s\n", strings.Join(r.skipped, ", "))
		}
	}
	return good
}
