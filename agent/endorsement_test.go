package agent

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport/linuxudstpm"

	"github.com/assay-project/assay/api"
	"github.com/assay-project/assay/internal/swtpm"
	"github.com/assay-project/assay/tpm"
)

func setEndorsementPassword(t *testing.T, emulator *swtpm.Emulator, password string) {
	t.Helper()
	device, err := linuxudstpm.Open(emulator.Socket())
	if err != nil {
		t.Fatal(err)
	}
	defer device.Close()
	_, err = tpm2.HierarchyChangeAuth{
		AuthHandle: tpm2.AuthHandle{Handle: tpm2.TPMRHEndorsement, Auth: tpm2.PasswordAuth(nil)},
		NewAuth:    tpm2.TPM2BAuth{Buffer: []byte(password)},
	}.Execute(device)
	if err != nil {
		t.Fatal(err)
	}
}

func passwordFile(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "endorsement-auth")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// An agent whose TPM got a password goes on with its keys once it has the file; without it, or with another password, it says what to configure and
// makes no new key.
func TestEndorsementAuthFile(t *testing.T) {
	emulator := startTPM(t)
	config := offline(t, emulator)
	identify := func() (string, error) {
		t.Helper()
		a, err := New(config, Environment{})
		if err != nil {
			return "", err
		}
		defer a.Close()
		who, err := a.identify()
		if err != nil {
			return "", err
		}
		return string(who.id) + string(a.device.ak.Key().Name()), nil
	}
	first, err := identify()
	if err != nil {
		t.Fatal(err)
	}
	setEndorsementPassword(t, emulator, "secret")
	for _, file := range []string{"", passwordFile(t, "wrong\n")} {
		config.EndorsementAuthFile = file
		if _, err := identify(); err == nil || !strings.Contains(err.Error(), "key endorsementAuthFile") || !strings.Contains(err.Error(), "password") {
			t.Errorf("file %q: %v, want an error that names the key", file, err)
		}
		check := Preflight(config)[0]
		if check.Status != api.PreflightFailing || !strings.Contains(check.Detail, "password") || !strings.Contains(check.Remedy, "endorsementAuthFile") {
			t.Errorf("file %q: preflight %+v", file, check)
		}
	}
	config.EndorsementAuthFile = passwordFile(t, "secret\n")
	if again, err := identify(); err != nil || again != first {
		t.Errorf("%q, %v, want the keys of before", again, err)
	}
	for _, check := range Preflight(config)[:3] {
		if check.Status != api.PreflightOK {
			t.Errorf("preflight %+v", check)
		}
	}
	clearTPM(t, emulator) // the password too
	if _, err := identify(); err == nil || !strings.Contains(err.Error(), "key endorsementAuthFile") {
		t.Errorf("after TPM2_Clear: %v, want an error that names the key", err)
	}
	config.EndorsementAuthFile = ""
	if _, err := identify(); err != nil {
		t.Errorf("after TPM2_Clear, without the file: %v", err)
	}
}

// The agent registers, so that a credential is activated, and beats with a TPM that has a password.
func TestAgentWithEndorsementPassword(t *testing.T) {
	w, emulator := newWorld(t), startTPM(t)
	setEndorsementPassword(t, emulator, "secret")
	config := w.config(emulator)
	config.EndorsementAuthFile = passwordFile(t, "secret")
	start(t, config)
	w.eventually("a heartbeat", func() bool { return len(w.beats) > 0 })
}

func TestReadEndorsementAuth(t *testing.T) {
	longest := strings.Repeat("p", tpm.MaxAuthBytes)
	for _, row := range []struct{ name, text, want string }{
		{"plain", "secret", "secret"},
		{"a newline", "secret\n", "secret"},
		{"one newline only", "secret\n\n", "secret\n"},
		{"blanks and zeros count", " se\x00cret ", " se\x00cret "},
		{"longest", longest + "\n", longest},
	} {
		if got, err := readEndorsementAuth(passwordFile(t, row.text)); err != nil || string(got) != row.want {
			t.Errorf("%s: %q, %v, want %q", row.name, got, err, row.want)
		}
	}
	if got, err := readEndorsementAuth(""); err != nil || got != nil {
		t.Errorf("no file: %q, %v", got, err)
	}
	open := func(mode os.FileMode) string {
		path := passwordFile(t, "secret")
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		return path
	}
	for _, row := range []struct{ name, path, want string }{
		{"no such file", filepath.Join(t.TempDir(), "none"), "no such file"},
		{"a directory", t.TempDir(), "(mode 07"},
		{"read by the group", open(0o640), "mode 0640): chmod 600"},
		{"read by all", open(0o604), "mode 0604): chmod 600"},
		{"written by all", open(0o602), "mode 0602): chmod 600"},
		{"empty", passwordFile(t, ""), "holds no password"},
		{"a newline alone", passwordFile(t, "\n"), "holds no password"},
		{"too long", passwordFile(t, longest+"p"), "more than the 64 bytes"},
		{"far too long", passwordFile(t, strings.Repeat(longest, 9)), "more than the 64 bytes"},
	} {
		config := Config{EndorsementAuthFile: row.path}
		_, err := config.readSecrets()
		if err == nil || !strings.Contains(err.Error(), row.want) || !strings.Contains(err.Error(), "key endorsementAuthFile") || strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: %v, want %q and the key", row.name, err, row.want)
		}
		check := Preflight(config)[0]
		if check.Status != api.PreflightFailing || !strings.Contains(check.Remedy, "endorsementAuthFile") {
			t.Errorf("%s: preflight %+v", row.name, check)
		}
	}
}
