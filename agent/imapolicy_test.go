package agent

import (
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/assay-project/assay/api"
	"github.com/assay-project/assay/deploy/ima"
)

func TestIMAPolicyConfig(t *testing.T) {
	for name, row := range map[string]struct {
		policy IMAPolicy
		want   string // "" for none
	}{
		"none":                {IMAPolicy{Install: "None", Path: "nonsense"}, ""},
		"zero":                {IMAPolicy{}, ""},
		"host":                {IMAPolicy{Install: "Host", Path: "/etc/ima/ima-policy", Load: true}, ""},
		"unknown":             {IMAPolicy{Install: "tcb", Path: "/etc/ima/ima-policy"}, `imaPolicy.install: "tcb" is not one of [None Host Containers]`},
		"a relative path":     {IMAPolicy{Install: "Host", Path: "ima-policy"}, `imaPolicy.path: "ima-policy" is no plain absolute path`},
		"a path that goes up": {IMAPolicy{Install: "Host", Path: "/etc/ima/../shadow"}, "is no plain absolute path"},
		"a path with a space": {IMAPolicy{Install: "Host", Path: "/etc/ima policy"}, "is no plain absolute path"},
		"nothing to load":     {IMAPolicy{Install: "None", Load: true}, "imaPolicy.load: there is nothing to load"},
	} {
		config := DefaultConfig()
		config.Server, config.CA, config.IMAPolicy = "a.example", "/ca.crt", row.policy
		err := config.Check()
		if row.want == "" && err != nil || row.want != "" && (err == nil || !strings.Contains(err.Error(), row.want)) {
			t.Errorf("%s: %v, want %q", name, err, row.want)
		}
	}
}

// What is there decides: nothing and files of ours give way, and whatever is somebody's own stays to the byte.
func TestInstallIMAPolicy(t *testing.T) {
	file := func(content []byte) func(string) error {
		return func(path string) error { return os.WriteFile(path, content, 0o600) }
	}
	foreign := append(ima.HostPolicy(), "measure func=FILE_CHECK\n"...)
	for name, row := range map[string]struct {
		there   func(path string) error
		want    []byte // of the path afterwards
		done    string
		failure string
	}{
		"nothing":            {nil, ima.HostPolicy(), "installed by this agent", ""},
		"the same":           {file(ima.HostPolicy()), ima.HostPolicy(), "", ""},
		"the other of ours":  {file(ima.ContainersPolicy()), ima.HostPolicy(), "in place of Containers", ""},
		"a foreign policy":   {file(foreign), foreign, "", "is no IMA policy of Assay's"},
		"an empty file":      {file(nil), []byte{}, "", "is no IMA policy of Assay's"},
		"ours, cut short":    {file(ima.HostPolicy()[:40]), ima.HostPolicy()[:40], "", "is no IMA policy of Assay's"},
		"a file that is big": {file(make([]byte, maxPolicyFileBytes+1)), make([]byte, maxPolicyFileBytes+1), "", "no plain file"},
		"a link to one of ours": {func(path string) error {
			if err := file(ima.ContainersPolicy())(path + ".target"); err != nil {
				return err
			}
			return os.Symlink(path+".target", path)
		}, ima.ContainersPolicy(), "", "is a link"},
		"a folder": {func(path string) error { return os.Mkdir(path, 0o755) }, nil, "", "no plain file"},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "ima", "ima-policy")
			if row.there != nil {
				if err := os.Mkdir(filepath.Dir(path), 0o755); err != nil {
					t.Fatal(err)
				}
				if err := row.there(path); err != nil {
					t.Fatal(err)
				}
			}
			p := IMAPolicy{Install: ima.Host, Path: path}
			done, err := p.install()
			if !strings.Contains(done, row.done) || (done == "") != (row.done == "") {
				t.Errorf("done %q, want %q", done, row.done)
			}
			if row.failure == "" && err != nil || row.failure != "" && (err == nil || !strings.Contains(err.Error(), row.failure) || !strings.Contains(err.Error(), path)) {
				t.Errorf("error %v, want %q", err, row.failure)
			}
			have, err := os.ReadFile(path)
			if row.want != nil && (err != nil || string(have) != string(row.want)) {
				t.Errorf("%d bytes, %v; want %d", len(have), err, len(row.want))
			}
			m, _ := goodMachine()
			m.files, m.policy, m.outcome = os.DirFS("/"), p, policyOutcome{err: nil}
			if row.failure != "" {
				_, m.outcome.err = p.install()
			}
			check := m.checkPolicyFile()[0]
			if ok := check.Status == api.PreflightOK; ok != (row.failure == "") || !ok && (check.Remedy == "" || !strings.Contains(check.Detail, row.failure)) {
				t.Errorf("preflight says %+v", check)
			}
		})
	}
}

// us is the path of the agent's program.
const us = "/usr/bin/assay-agent"

// A preflight that only looks says what the next boot finds, and whether this one runs it.
func TestPreflightOfThePolicyFile(t *testing.T) {
	host, containers := ima.HostPolicy(), ima.ContainersPolicy()
	line := func(content []byte) string {
		return listLine("boot_aggregate", "x") + fmt.Sprintf("10 %s ima-ng sha256:%x %s\n", strings.Repeat("ab", 20), sha256.Sum256(content), defaultPolicyPath)
	}
	read := strings.Replace(line(host), "\n", "\n"+listLine(us, "x"), 1) // after our own program, which reads the file
	for name, row := range map[string]struct {
		file   []byte
		list   string
		status api.PreflightStatus
		want   []string
		open   bool   // the kernel still takes policies
		done   string // by the agent
	}{
		"read, not loaded":  {file: host, list: read, status: api.PreflightOK, want: []string{"this boot does not run it"}, open: true},
		"loaded late":       {file: host, list: read, status: api.PreflightOK, want: []string{"; this boot runs it"}},
		"loaded by us":      {file: host, list: read, status: api.PreflightOK, want: []string{"; this boot runs it", loadedNow}, open: true, done: loadedNow},
		"loaded and open":   {file: host, list: line(host) + listLine(us, "x"), status: api.PreflightOK, want: []string{"; this boot runs it"}, open: true},
		"loaded":            {file: host, list: line(host), status: api.PreflightOK, want: []string{"policy Host in " + defaultPolicyPath, "; this boot runs it"}},
		"for the next boot": {file: host, list: listLine("boot_aggregate", "x"), status: api.PreflightOK, want: []string{"this boot does not run it", bootParameters}},
		"another one runs":  {file: host, list: line(containers), status: api.PreflightOK, want: []string{"this boot does not run it"}},
		"no list":           {file: host, list: "", status: api.PreflightOK, want: []string{"whether this boot runs it is not known"}},
		"the other of ours": {file: containers, list: line(host), status: api.PreflightWarning, want: []string{"Containers", "wants Host"}},
		"foreign":           {file: []byte("measure\n"), list: line(host), status: api.PreflightWarning, want: []string{"is no IMA policy of Assay's"}},
		"nothing":           {file: nil, list: line(host), status: api.PreflightWarning, want: []string{"there is no " + defaultPolicyPath}},
	} {
		t.Run(name, func(t *testing.T) {
			m, files := goodMachine()
			m.policy, m.self = IMAPolicy{Install: ima.Host, Path: defaultPolicyPath}, us
			if row.open {
				files["sys/kernel/security/ima/policy"] = &fstest.MapFile{Mode: 0o600}
			}
			if row.done != "" {
				m.outcome.done = []string{row.done}
			}
			if row.file != nil {
				files[defaultPolicyPath[1:]] = &fstest.MapFile{Mode: 0o440, Data: row.file}
			}
			files[testList[1:]] = &fstest.MapFile{Mode: 0o440, Data: []byte(row.list)}
			if row.list == "" {
				delete(files, testList[1:])
			}
			check := m.checkPolicyFile()[0]
			for _, want := range row.want {
				if check.Status != row.status || !strings.Contains(check.Detail, want) || (check.Remedy == "") != (row.status == api.PreflightOK) {
					t.Errorf("%+v, want %s with %q", check, row.status, want)
				}
			}
		})
	}
	m, _ := goodMachine()
	if checks := m.checkPolicyFile(); len(checks) != 0 {
		t.Errorf("without a policy to install: %+v", checks)
	}
}

// The kernel gets the path of the file once in a boot, and only where it takes policies and has not got this one. A file stands for the
// kernel's, which this machine may not have.
func TestLoadIMAPolicyOncePerBoot(t *testing.T) {
	const policy = "/etc/ima/ima-policy"
	for name, row := range map[string]struct {
		list   string
		marker string
		mode   os.FileMode // 0: no file
		told   bool
		done   string
	}{
		"taken":               {listLine("boot_aggregate", "x"), "", 0o600, true, "loaded by this agent"},
		"after another boot":  {listLine("boot_aggregate", "x"), "boot-0\n", 0o600, true, "loaded by this agent"},
		"in this boot before": {listLine("boot_aggregate", "x"), "boot-1\n", 0o600, false, "before"},
		"loaded already":      {listLine(policy, "x") + listLine(us, "x"), "", 0o600, false, ""},
		"read by us":          {listLine(us, "x") + listLine(policy, "x"), "", 0o600, true, "loaded by this agent"},
		"loaded late":         {listLine(us, "x") + listLine(policy, "x"), "", 0, false, ""},
		"closed":              {listLine("boot_aggregate", "x"), "", 0, false, "takes no policy"},
		"readable only":       {listLine("boot_aggregate", "x"), "", 0o400, false, "takes no policy"},
		"no list":             {"", "", 0o600, true, "loaded by this agent"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			l := loader{kernel: filepath.Join(dir, "policy"), bootID: filepath.Join(dir, "boot_id"), list: filepath.Join(dir, "list"), marker: filepath.Join(dir, "marker"), self: us}
			files := map[string]string{l.bootID: "boot-1\n", l.list: row.list, l.marker: row.marker, l.kernel: "-"}
			for path, content := range files {
				if content == "" || path == l.kernel && row.mode == 0 {
					continue
				}
				if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			if row.mode != 0 {
				if err := os.Chmod(l.kernel, row.mode); err != nil {
					t.Fatal(err)
				}
			}
			done, err := l.load(policy)
			if err != nil || !strings.Contains(done, row.done) || (done == "") != (row.done == "") {
				t.Errorf("done %q, %v; want %q", done, err, row.done)
			}
			text, _ := os.ReadFile(l.kernel)
			if told := string(text) == policy; told != row.told {
				t.Errorf("the kernel was told %q", text)
			}
			if !row.told {
				return
			}
			if err := os.WriteFile(l.kernel, []byte("-"), 0o600); err != nil {
				t.Fatal(err)
			}
			if done, err := l.load(policy); err != nil || !strings.Contains(done, "before") {
				t.Errorf("again: %q, %v", done, err)
			}
			if text, err := os.ReadFile(l.kernel); err != nil || string(text) != "-" {
				t.Errorf("the kernel was told again: %q, %v", text, err)
			}
		})
	}
}

// What hinders it is told, and is no reason to end.
func TestIMAPolicyThatCannotBeInstalled(t *testing.T) {
	config := offline(t, nil)
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	config.TokenFile = file
	config.IMAPolicy = IMAPolicy{Install: ima.Host, Path: filepath.Join(file, "ima-policy"), Load: true}
	a, err := New(config, Environment{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := a.Close(); err != nil {
			t.Error(err)
		}
	}()
	for _, check := range a.findings {
		if check.Name == "ima-policy-file" {
			if check.Status != api.PreflightWarning || !strings.Contains(check.Detail, "not a directory") || check.Remedy == "" {
				t.Errorf("%+v", check)
			}
			return
		}
	}
	t.Errorf("no word of it in %+v", a.findings)
}
