package platform

import (
	"fmt"
	"maps"
	"strconv"
	"strings"
	"time"

	"github.com/assay-project/assay/internal/mtls"
)

// phase is where a rotation of the authorities stands. Each phase lasts for the overlap, so that everybody has read the bundle that it needs.
type phase string

const (
	// stable: one set of authorities.
	stable phase = "Stable"
	// announced: the next ones are in the bundles, the current ones still sign.
	announced phase = "Announced"
	// switched: the next ones became current and sign; the previous ones are still in the bundles.
	switched phase = "Switched"
)

// renewAuthorities is how long before their end the authorities are rotated unasked.
const renewAuthorities = 2 * 365 * 24 * time.Hour

// authorities are the CAs of a platform, in a rotation two sets of them.
type authorities struct {
	current        *mtls.Authority
	next, previous *mtls.Authority // nil for none
	phase          phase
	since          time.Time
	// serial counts the changes of the bundles.
	serial int
	// asked is spec.certificates.rotation as it was carried out last, or is being.
	asked string
}

// want says what a rotation goes by.
type want struct {
	now     time.Time
	overlap time.Duration
	asked   string
	// settled: every workload runs with the bundles of now.
	settled bool
}

// step moves a rotation on by one phase at most, and reports whether anything changed.
func (a authorities) step(w want) (authorities, bool, error) {
	due := !w.now.Before(a.since.Add(w.overlap)) && w.settled
	switch {
	case a.phase == stable && (w.asked != a.asked || a.current.Expires().Before(w.now.Add(renewAuthorities))):
		next, err := mtls.New(func() time.Time { return w.now })
		if err != nil {
			return a, false, fmt.Errorf("make the next authorities: %w", err)
		}
		a.next, a.phase, a.asked = next, announced, w.asked
	case a.phase == announced && due:
		a.previous, a.current, a.next, a.phase = a.current, a.next, nil, switched
	case a.phase == switched && due:
		a.previous, a.phase = nil, stable
	default:
		return a, false, nil
	}
	a.since = w.now
	a.serial++
	return a, true, nil
}

// bundles returns who is trusted as a server and who as a client, in PEM.
func (a authorities) bundles() (serverCAs, clientCAs []byte) {
	for _, set := range []*mtls.Authority{a.current, a.next, a.previous} {
		if set != nil {
			serverCAs, clientCAs = append(serverCAs, set.ServerCAs()...), append(clientCAs, set.ClientCAs()...)
		}
	}
	return serverCAs, clientCAs
}

// mark changes when the agents have to start anew: they ask the server for the clients' CAs at their start, so it comes when the server has
// had half of the overlap to read the new bundles.
func (a authorities) mark(w want) string {
	if w.now.Before(a.since.Add(w.overlap / 2)) {
		return strconv.Itoa(a.serial - 1)
	}
	return strconv.Itoa(a.serial)
}

// wait is how long until the next phase, or until the mark changes; 0 when nothing is under way.
func (a authorities) wait(w want) time.Duration {
	if a.phase == stable && !w.now.Before(a.since.Add(w.overlap/2)) {
		return 0
	}
	for _, at := range []time.Time{a.since.Add(w.overlap / 2), a.since.Add(w.overlap)} {
		if w.now.Before(at) {
			return at.Sub(w.now) + time.Second
		}
	}
	return 5 * time.Second // overdue: not settled
}

const (
	entryPhase  = "phase"
	entrySince  = "since"
	entrySerial = "serial"
	entryAsked  = "rotation"
)

// data is the content of the Secret.
func (a authorities) data() (map[string][]byte, error) {
	data := map[string][]byte{
		entryPhase: []byte(a.phase), entrySince: []byte(a.since.UTC().Format(time.RFC3339)), entrySerial: []byte(strconv.Itoa(a.serial)), entryAsked: []byte(a.asked),
	}
	for prefix, set := range map[string]*mtls.Authority{"": a.current, "next-": a.next, "previous-": a.previous} {
		if set == nil {
			continue
		}
		files, err := set.Files()
		if err != nil {
			return nil, err
		}
		for name, content := range files {
			data[prefix+name] = content
		}
	}
	return data, nil
}

// parseAuthorities reads the content of the Secret.
func parseAuthorities(data map[string][]byte, now func() time.Time) (authorities, error) {
	a := authorities{phase: phase(data[entryPhase]), asked: string(data[entryAsked])}
	var err error
	if a.since, err = time.Parse(time.RFC3339, string(data[entrySince])); err != nil {
		return a, fmt.Errorf("secret %s: %s: %w", SecretAuthorities, entrySince, err)
	}
	if a.serial, err = strconv.Atoi(string(data[entrySerial])); err != nil {
		return a, fmt.Errorf("secret %s: %s: %w", SecretAuthorities, entrySerial, err)
	}
	sets := map[string]**mtls.Authority{"": &a.current}
	switch a.phase {
	case stable:
	case announced:
		sets["next-"] = &a.next
	case switched:
		sets["previous-"] = &a.previous
	default:
		return a, fmt.Errorf("secret %s: unknown phase %.40q", SecretAuthorities, a.phase)
	}
	for prefix, set := range sets {
		files := map[string][]byte{}
		for name, content := range maps.All(data) {
			if own, ok := strings.CutPrefix(name, prefix); ok {
				files[own] = content
			}
		}
		if *set, err = mtls.FromFiles(files, now); err != nil {
			return a, fmt.Errorf("secret %s: %s%w", SecretAuthorities, prefix, err)
		}
	}
	return a, nil
}
