package agent

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"unicode"

	"golang.org/x/sys/unix"

	"github.com/assay-project/assay/api"
	"github.com/assay-project/assay/deploy/ima"
	"github.com/assay-project/assay/internal/durable"
)

const (
	policyNone        = "None"
	defaultPolicyPath = "/etc/ima/ima-policy"
	// maxPolicyFileBytes is far more than any policy of ours: a bigger file is foreign.
	maxPolicyFileBytes = 64 << 10
	// fileLoaded in the state directory holds the boot in which a policy was loaded, or was tried to be.
	fileLoaded = "ima-policy-boot"
	// What is said of a policy that the agent had the kernel load.
	loadedNow    = "loaded by this agent in this boot"
	loadedBefore = "this agent had the kernel load it in this boot before"
)

// check reports every mistake. An empty Install is None.
func (p IMAPolicy) check() (mistakes []error) {
	switch p.Install {
	case "", policyNone:
		if p.Load {
			mistakes = append(mistakes, errors.New("imaPolicy.load: there is nothing to load with imaPolicy.install: None"))
		}
		return mistakes
	case ima.Host, ima.Containers:
	default:
		mistakes = append(mistakes, fmt.Errorf("imaPolicy.install: %.40q is not one of [%s %s %s]", p.Install, policyNone, ima.Host, ima.Containers))
	}
	if !filepath.IsAbs(p.Path) || filepath.Clean(p.Path) != p.Path || strings.ContainsFunc(p.Path, func(r rune) bool { return unicode.IsSpace(r) || !unicode.IsPrint(r) }) {
		mistakes = append(mistakes, fmt.Errorf("imaPolicy.path: %.80q is no plain absolute path", p.Path))
	}
	return mistakes
}

// on reports whether a policy is to be installed.
func (p IMAPolicy) on() bool { return p.Install != "" && p.Install != policyNone }

// content is the policy that is to be installed.
func (p IMAPolicy) content() []byte {
	if p.Install == ima.Containers {
		return ima.ContainersPolicy()
	}
	return ima.HostPolicy()
}

// errForeign says that the file is none of Assay's.
var errForeign = errors.New("is no IMA policy of Assay's and is left as it is")

// install brings the policy to its path, and says what it did. It makes the file where there is none, and replaces one that Assay shipped;
// every other one is somebody's own.
func (p IMAPolicy) install() (done string, err error) {
	if err := os.Mkdir(filepath.Dir(p.Path), 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return "", fmt.Errorf("install IMA policy: %w", err)
	}
	want := p.content()
	have, err := readPolicyFile(p.Path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		err, done = durable.CreateFile(p.Path, want, 0o644), "installed by this agent"
	case err != nil:
	case bytes.Equal(have, want):
		return "", nil
	case ima.Shipped(sha256.Sum256(have)) != "":
		done = "installed by this agent in place of " + ima.Shipped(sha256.Sum256(have))
		err = durable.WriteFile(p.Path, want, 0o644)
	default:
		err = fmt.Errorf("%s (sha256:%x) %w", p.Path, sha256.Sum256(have), errForeign)
	}
	if err != nil {
		return "", fmt.Errorf("install IMA policy: %w", err)
	}
	return done, nil
}

// readPolicyFile reads a plain file. What is no plain file, or too big, is foreign; a link is not followed, since what it leads to is
// not ours to judge.
func readPolicyFile(path string) ([]byte, error) {
	file, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if errors.Is(err, unix.ELOOP) {
		return nil, fmt.Errorf("%s is a link, so it %w", path, errForeign)
	}
	if err != nil {
		return nil, err
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() || info.Size() > maxPolicyFileBytes {
		return nil, fmt.Errorf("%s is no plain file of at most %d bytes, so it %w", path, maxPolicyFileBytes, errForeign)
	}
	return io.ReadAll(io.LimitReader(file, maxPolicyFileBytes+1))
}

// loader has the running kernel load a policy. Its paths are the kernel's; tests have files of their own.
type loader struct {
	kernel string // takes the path of a policy, for as long as the kernel takes policies
	bootID string
	list   string // the measurement list
	marker string // holds the boot of the last try
	self   string // the path of our own program
}

func (a *Agent) loader() loader {
	return loader{
		kernel: "/sys/kernel/security/ima/policy", bootID: "/proc/sys/kernel/random/boot_id",
		list: a.config.IMAList, marker: a.state.Path(fileLoaded), self: ownPath(),
	}
}

// load writes the path of the file, not its rules: only so the kernel measures the file (POLICY_CHECK) before it takes the rules. A kernel with
// CONFIG_IMA_WRITE_POLICY appends them each time, so it is tried once in a boot; the marker is written first, or a crash would bring another try.
func (l loader) load(path string) (done string, err error) {
	head, err := readHead(l.list)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("load IMA policy: %w", err)
	}
	info, err := os.Stat(l.kernel)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("load IMA policy: %w", err)
	}
	open := err == nil && info.Mode().Perm()&0o222 != 0
	switch {
	case lookUp(head, path, l.self).loaded(open):
		return "", nil
	case !open:
		return "this kernel takes no policy in this boot any more", nil
	}
	boot, err := os.ReadFile(l.bootID)
	if err != nil {
		return "", fmt.Errorf("load IMA policy: %w", err)
	}
	if before, err := os.ReadFile(l.marker); err == nil && bytes.Equal(before, boot) {
		return loadedBefore, nil
	}
	if err := durable.WriteFile(l.marker, boot, 0o600); err != nil {
		return "", fmt.Errorf("load IMA policy: %w", err)
	}
	kernel, err := os.OpenFile(l.kernel, os.O_WRONLY, 0)
	if err != nil {
		return "", fmt.Errorf("load IMA policy: %w (it takes CAP_SYS_ADMIN and a writable securityfs)", err)
	}
	_, err = kernel.WriteString(path)
	if err = errors.Join(err, kernel.Close()); err != nil {
		return "", fmt.Errorf("load IMA policy %s: %w (a kernel refuses the whole file for one rule that it does not know)", path, err)
	}
	return loadedNow, nil
}

// readHead reads the start of the measurement list, where policies are.
func readHead(path string) ([]byte, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	return io.ReadAll(io.LimitReader(file, maxPolicySearchBytes))
}

// policyOutcome is what came of installing and loading.
type policyOutcome struct {
	done []string
	err  error
}

// installPolicy installs the policy of the configuration and has it loaded, if it says so. What fails is told and ends nothing: quotes need no policy.
func (a *Agent) installPolicy() (o policyOutcome) {
	p := a.config.IMAPolicy
	if !p.on() {
		return o
	}
	steps := []func() (string, error){p.install}
	if p.Load {
		steps = append(steps, func() (string, error) { return a.loader().load(p.Path) })
	}
	for _, step := range steps {
		var done string
		if done, o.err = step(); o.err != nil {
			break // a file that is not ours is not loaded
		}
		if done != "" {
			o.done = append(o.done, done)
			a.log.Info("IMA policy", "path", p.Path, "policy", p.Install, "done", done)
		}
	}
	return o
}

// checkPolicyFile tells what the next boot finds, and whether this one runs it. It is made only where the configuration installs a policy: elsewhere
// nothing says that the path is the machine's.
func (m machine) checkPolicyFile() []api.PreflightCheck {
	if !m.policy.on() {
		return nil
	}
	check := api.PreflightCheck{Name: "ima-policy-file", Status: api.PreflightWarning}
	content, err := m.read(m.policy.Path, maxPolicyFileBytes+1)
	digest := sha256.Sum256(content)
	const own = "Remove the file and start the agent anew, or set imaPolicy.install: None."
	switch name := ima.Shipped(digest); {
	case errors.Is(m.outcome.err, errForeign):
		check.Detail, check.Remedy = m.outcome.err.Error(), own
	case m.outcome.err != nil:
		check.Detail, check.Remedy = m.outcome.err.Error(), "Let the agent write there at its start: docs/agent.md says which rights that takes."
	case errors.Is(err, fs.ErrNotExist):
		check.Detail, check.Remedy = "there is no "+m.policy.Path, "Start the agent as root: it installs the policy."
	case err != nil:
		check.Detail, check.Remedy = err.Error(), own
	case name == "":
		check.Detail, check.Remedy = fmt.Sprintf("%s (sha256:%x) %v", m.policy.Path, digest, errForeign), own
	case name != m.policy.Install:
		check.Detail = fmt.Sprintf("the next boot finds Assay's policy %s in %s, the configuration wants %s", name, m.policy.Path, m.policy.Install)
		check.Remedy = "Start the agent as root: it replaces the policy."
	default:
		check.Status = api.PreflightOK
		check.Detail = fmt.Sprintf("the next boot finds Assay's policy %s in %s (sha256:%x); %s", name, m.policy.Path, digest, m.thisBoot(fmt.Sprintf("%x", digest)))
	}
	if len(m.outcome.done) > 0 {
		check.Detail += "; " + strings.Join(m.outcome.done, "; ")
	}
	return []api.PreflightCheck{check}
}

// thisBoot says whether the list shows the file being loaded.
func (m machine) thisBoot(digest string) string {
	head, err := m.read(m.imaList, maxPolicySearchBytes)
	if err != nil {
		return "whether this boot runs it is not known"
	}
	ours := slices.Contains(m.outcome.done, loadedNow) || slices.Contains(m.outcome.done, loadedBefore)
	if found := lookUp(head, m.policy.Path, m.self); found.digest == digest && (ours || found.loaded(m.policyOpen())) {
		return "this boot runs it"
	}
	return "this boot does not run it: it takes a reboot with the kernel's parameters " + bootParameters
}

// nameOf names a measured policy file by its digest.
func nameOf(digest string) string {
	for _, p := range []IMAPolicy{{Install: ima.Host}, {Install: ima.Containers}} {
		if fmt.Sprintf("%x", sha256.Sum256(p.content())) == digest {
			return "Assay's policy " + p.Install
		}
	}
	return "no policy that this agent knows"
}

// policyPaths are where a policy file may stand: systemd loads the first by path, the lab's init too.
func (m machine) policyPaths() []string {
	paths := []string{defaultPolicyPath}
	if m.policy.on() && !slices.Contains(paths, m.policy.Path) {
		paths = append(paths, m.policy.Path)
	}
	return paths
}
