package lab

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/assay-project/assay/lab/guest"
)

// A Debian machine is like the others, with systemd as PID 1, which loads the IMA policy once it runs itself.
func TestDebianMachine(t *testing.T) {
	place(t)
	m := boot(t, Config{
		System: Debian, Files: []File{{Path: "/etc/greeting", Mode: 0o640, Data: []byte("hello\n")}},
		Services: []guest.Service{{Name: "worker", Args: []string{"/bin/sleep", "100000"}, User: "nobody"}},
	})
	got := output(t, m, "cat /proc/1/comm /etc/greeting; systemctl is-system-running --wait; stat -c '%a %U' /usr/bin/sudo /tmp; systemctl --failed --no-legend; sudo id -un")
	if want := "systemd\nhello\nrunning\n4755 root\n1777 root\nroot"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if got := output(t, m, "grep -l sleep /proc/[0-9]*/comm | xargs -n 1 dirname | xargs stat -c %U"); got != "nobody" {
		t.Errorf("the service is %q's", got)
	}
	lines := strings.Split(output(t, m, "cat "+listPath), "\n")
	at := slices.IndexFunc(lines, func(line string) bool { return strings.HasSuffix(line, " "+guest.PolicyPath) })
	if at < 2 || !strings.HasSuffix(lines[1], " /usr/lib/systemd/systemd") || !strings.Contains(lines[at-1], ".so") || strings.Contains(lines[at+1], ".so") {
		t.Errorf("the policy is entry %d of\n%s", at, strings.Join(lines[:min(len(lines), 40)], "\n"))
	}
	checkPolicyClosed(t, m)
	if err := m.Client().PowerOff(t.Context()); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(time.Minute); ; time.Sleep(100 * time.Millisecond) {
		if running, _ := m.Running(t.Context()); !running {
			break
		}
		if time.Now().After(end) {
			t.Fatal("still on")
		}
	}
}
