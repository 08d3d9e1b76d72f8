package lab

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/assay-project/assay/api"
	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/cmd/assay/stage"
	"github.com/assay-project/assay/lab"
)

// checkout is where the machine has what a person would have after a checkout and `make build`.
const checkout = "/root/assay"

// blocks returns the commands of the code blocks below a heading of a document.
func blocks(t *testing.T, document, heading string) []string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("../..", document))
	if err != nil {
		t.Fatal(err)
	}
	_, section, found := strings.Cut(string(text), "\n## "+heading+"\n")
	if !found {
		t.Fatalf("%s has no section %q", document, heading)
	}
	section, _, _ = strings.Cut(section, "\n## ")
	var commands []string
	for _, match := range regexp.MustCompile("(?ms)^```\n(.*?)^```$").FindAllStringSubmatch(section, -1) {
		commands = append(commands, match[1])
	}
	return commands
}

// earlyBoot is what deploy/ima's README gives for Debian.
func earlyBoot(t *testing.T) []string {
	t.Helper()
	text, err := os.ReadFile("../../deploy/ima/README.md")
	if err != nil {
		t.Fatal(err)
	}
	var patterns []string
	for _, match := range regexp.MustCompile(`--early-boot '?([^ '`+"`"+`]+)`).FindAllStringSubmatch(string(text), -1) {
		patterns = append(patterns, match[1])
	}
	if len(patterns) != 2 {
		t.Fatalf("deploy/ima/README.md names %q", patterns)
	}
	return patterns
}

// debian makes a stage with a Debian machine that has the repository's files and no agent.
func debian(t *testing.T) *stage.Stage {
	t.Helper()
	exclusive(t)
	folder, err := os.MkdirTemp("", "assay-stage-")
	if err != nil {
		t.Fatal(err)
	}
	var files []lab.File
	for _, name := range []string{"assay", "assay-agent"} {
		files = append(files, lab.File{Path: checkout + "/build/" + name, Mode: 0o755, Source: filepath.Join(programs, name)})
	}
	for _, name := range []string{"deploy/ima/host.policy", "deploy/systemd/assay-agent.service"} {
		files = append(files, lab.File{Path: filepath.Join(checkout, name), Mode: 0o644, Source: filepath.Join("../..", name)})
	}
	s, err := stage.New(stage.Config{
		Folder: folder, Programs: programs, Firmware: lab.SeaBIOS, System: lab.Debian, Interval: interval, Files: files,
		Supervisor: []string{filepath.Join(programs, "assay"), "lab", "supervise"},
		Progress:   func(text string) { t.Log(text) },
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	for _, step := range []func(context.Context) error{
		s.StartServer, s.Boot, func(ctx context.Context) error { _, err := s.Endorse(ctx); return err },
	} {
		if err := step(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	return s
}

// TestDocumentedInstallation installs the agent on a Debian with systemd by the very commands of the documents, and sees that the unit, the IMA
// policy and the machine are what the documents say.
func TestDocumentedInstallation(t *testing.T) {
	s := debian(t)
	t.Run("README", func(t *testing.T) { followReadme(t, s) })

	install := blocks(t, "docs/agent.md", "On a machine with a TPM")
	if len(install) != 2 {
		t.Fatalf("docs/agent.md has %d blocks of commands, want what comes before the reboot and what after: %q", len(install), install)
	}
	config, err := s.AgentConfig(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	put(t, s, checkout+"/agent.yaml", config)
	in(t, s, "set -e; cd "+checkout+"\n"+install[0])
	if err := s.Machine.Reboot(t.Context()); err != nil {
		t.Fatal(err)
	}
	list := in(t, s, "head -n 60 /sys/kernel/security/ima/ascii_runtime_measurements")
	if !strings.Contains(list, " /etc/ima/ima-policy\n") {
		t.Fatalf("systemd has not loaded the IMA policy:\n%s", list)
	}
	t.Log(in(t, s, "set -e; cd "+checkout+"\n"+install[1]))
	checkUnit(t, s)

	if _, err := s.Register(t.Context()); err != nil {
		t.Fatal(err)
	}
	addInstalled(t, s)
	needsEarlyBoot(t, s)

	in(t, s, "cp /usr/bin/true /usr/local/bin/unlisted && echo >> /usr/local/bin/unlisted && /usr/local/bin/unlisted")
	node := await(t, s, attest.Failed)
	if len(node.Failures) != 1 || node.Failures[0].ID != attest.FileNotInPolicy || node.Failures[0].Path != "/usr/local/bin/unlisted" {
		t.Errorf("got %s", stage.Reasons(node))
	}

	before := in(t, s, "systemctl show --property MainPID --value assay-agent")
	in(t, s, "kill -9 "+before)
	rounds(t, s, 2)
	if after := in(t, s, "systemctl show --property MainPID --value assay-agent"); after == before || after == "0" {
		t.Errorf("process %s was killed and now it is %s", before, after)
	}

	in(t, s, "rm /usr/local/bin/unlisted; sync")
	reboot(t, s)
	checkUnit(t, s)
}

// needsEarlyBoot enrols the machine under a document that does not know what runs before systemd loads the policy, and then tells it.
func needsEarlyBoot(t *testing.T, s *stage.Stage) {
	t.Helper()
	const unaware = "unaware-of-systemd"
	if _, err := s.AddTreePolicy(t.Context(), unaware); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Client.Enrol(t.Context(), api.EnrolRequest{ID: s.Agent, Policies: []string{unaware}}); err != nil {
		t.Fatal(err)
	}
	node := await(t, s, attest.Failed)
	if slices.ContainsFunc(node.Failures, func(f attest.Failure) bool { return f.ID != attest.ImaPolicyNotApproved }) {
		t.Errorf("without earlyBoot: %s", stage.Reasons(node))
	}
	if _, err := s.AddTreePolicy(t.Context(), policyName, earlyBoot(t)...); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Client.UpdateNode(t.Context(), s.Agent, api.NodeUpdate{Policies: &[]string{policyName}}); err != nil {
		t.Fatal(err)
	}
	await(t, s, attest.Trusted)
}

// checkUnit sees that the agent runs as a service, as its user, with nothing left of what it had at the start. The bounding set is what the unit
// allows the process at its start; no_new_privs keeps it from being used again.
func checkUnit(t *testing.T, s *stage.Stage) {
	t.Helper()
	got := in(t, s, `systemctl is-active assay-agent; systemctl is-enabled assay-agent; pid=$(systemctl show --property MainPID --value assay-agent)
stat -c %U /proc/$pid; grep -E '^(CapPrm|CapEff|CapBnd|NoNewPrivs|Seccomp):' /proc/$pid/status; stat -c '%U %a' /var/lib/assay-agent
cut -d ' ' -f 5,6 /proc/$pid/mountinfo | grep -oE '^(/|/usr|/home|/var/lib/assay-agent|/sys/fs/cgroup) r[ow]' | sort -u
systemd-analyze verify /etc/systemd/system/assay-agent.service 2>&1`)
	want := "active\nenabled\nassay\nCapPrm:\t0000000000000000\nCapEff:\t0000000000000000\nCapBnd:\t00000000000000c3\nNoNewPrivs:\t1\nSeccomp:\t2\nassay 700\n" +
		"/ ro\n/home ro\n/sys/fs/cgroup ro\n/var/lib/assay-agent rw"
	if got != want {
		t.Errorf("the service:\n%s\nwant:\n%s\n%s", got, want, in(t, s, "systemctl status --no-pager --lines 40 assay-agent || true"))
	}
	if log := in(t, s, "journalctl --no-pager --unit assay-agent"); strings.Contains(log, "assay1.") {
		t.Errorf("the join token is in the journal:\n%s", log)
	}
}

// addInstalled adds to the host's copy of the machine's tree what the installation added to the machine.
func addInstalled(t *testing.T, s *stage.Stage) {
	t.Helper()
	from, err := os.Open(filepath.Join(programs, "assay-agent"))
	if err != nil {
		t.Fatal(err)
	}
	defer from.Close()
	to, err := os.OpenFile(filepath.Join(s.Machine.Tree(), "usr/bin/assay-agent"), os.O_CREATE|os.O_WRONLY, 0o755)
	if err != nil {
		t.Fatal(err)
	}
	defer to.Close()
	if _, err := io.Copy(to, from); err != nil {
		t.Fatal(err)
	}
}

func put(t *testing.T, s *stage.Stage, path string, data []byte) {
	t.Helper()
	if err := s.Machine.WriteFile(t.Context(), path, 0o600, data); err != nil {
		t.Fatal(err)
	}
}

// followReadme runs the README's way to attest one's own machine: server and agent on one machine, started by hand. Each line is run as it
// stands, with what the text around it says between them.
func followReadme(t *testing.T, s *stage.Stage) {
	found := blocks(t, "README.md", "Attest your own machine")
	if len(found) != 1 {
		t.Fatalf("README.md has %d blocks of commands", len(found))
	}
	lines := strings.Split(strings.TrimSpace(found[0]), "\n")
	if len(lines) != 3 {
		t.Fatalf("README.md has %d lines of commands: %q", len(lines), lines)
	}
	background := func(line, log string) {
		in(t, s, fmt.Sprintf("cd %s; exec >/run/%s 2>&1 </dev/null\n%s", checkout, log, line))
	}
	eventually := func(line, want string) string {
		t.Helper()
		var out string
		err := stage.Eventually(t.Context(), time.Minute, want, func(ctx context.Context) (bool, error) {
			var err error
			out, err = s.Run(ctx, "/bin/sh", "-c", "cd "+checkout+"; "+line)
			return strings.Contains(out, want), err
		})
		if err != nil {
			t.Fatalf("%s: %v\n%s", line, err, out)
		}
		return out
	}

	background(lines[0], "server.log")
	said := eventually("cat /run/server.log", "assay login ")
	_, login, _ := strings.Cut(said, "assay login ")
	login, _, _ = strings.Cut(login, "\n")
	eventually("HOME=/root build/assay login "+login, "knows you as")

	root, err := s.Machine.EKRoot()
	if err != nil {
		t.Fatal(err)
	}
	put(t, s, "/run/root.pem", root)
	in(t, s, "cd "+checkout+"; build/assay endorsement add /run/root.pem")
	in(t, s, "cd "+checkout+`; printf 'server: localhost:8443\njoinToken: %s\nuser: nobody\n' "$(build/assay token create | head -n 1)" > agent.yaml`)
	background(lines[1], "agent.log")

	id := regexp.MustCompile(`[0-9a-f]{64}`)
	var agent string
	err = stage.Eventually(t.Context(), time.Minute, "an agent is listed", func(ctx context.Context) (bool, error) {
		out, err := s.Run(ctx, "/bin/sh", "-c", "cd "+checkout+"; "+lines[2])
		agent = id.FindString(out)
		return agent != "", err
	})
	if err != nil {
		t.Fatalf("%v\n%s", err, in(t, s, "cat /run/agent.log /run/server.log"))
	}
	in(t, s, "cd "+checkout+"; build/assay node enrol "+agent)
	eventually("build/assay node list", string(attest.Unappraised))

	in(t, s, `for p in /proc/[0-9]*; do case $(readlink $p/exe) in `+checkout+`/*) kill ${p#/proc/};; esac; done; sleep 2; rm -rf /var/lib/assay-agent`)
}
