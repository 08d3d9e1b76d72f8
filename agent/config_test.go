package agent

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/assay-project/assay/api"
	"github.com/assay-project/assay/attest"
	"github.com/assay-project/assay/internal/conf"
)

// testToken is a join token of no server.
func testToken() api.JoinToken {
	return api.JoinToken{Pin: attest.SHA256.Sum([]byte("ca")), ID: "t1", Secret: []byte("0123456789abcdef")}
}

func load(t *testing.T, text string, environ ...string) (Config, error) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "agent.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	config := DefaultConfig()
	return config, conf.Load(conf.Source{Path: path, Environ: environ}, &config)
}

func TestConfigSmallest(t *testing.T) {
	for _, text := range []string{
		"server: attest.example\nca: /etc/assay/ca.crt\n",
		"server: https://attest.example:8443\njoinToken: " + testToken().String() + "\n",
		"server: attest.example\njoinTokenFile: /run/token\n",
		"keylime: true\nregistrar: registrar.example:8891\nca: /ca.crt\nclientCA: /ca.crt\n",
		"keylime: true\nregistrar: http://registrar.example:8890\nclientCA: /ca.crt\n",
	} {
		if _, err := load(t, text); err != nil {
			t.Errorf("%s: %v", text, err)
		}
	}
}

// One row for each key: what is wrong with it is said, with the key's name.
func TestConfigMistakes(t *testing.T) {
	good := "server: attest.example\nca: /etc/assay/ca.crt\n"
	keylime := "keylime: true\nregistrar: http://r:8890\nclientCA: /ca.crt\n"
	for _, row := range []struct{ name, text, want string }{
		{"no server", "ca: /ca.crt\n", "server: the server is not named"},
		{"no trust", "server: attest.example\n", "ca: nothing says which server to trust"},
		{"server with a path", "server: https://attest.example/api\nca: /ca.crt\n", "server: "},
		{"plain server", "server: http://attest.example\nca: /ca.crt\n", "server: "},
		{"plain registrar", good + "registrar: http://attest.example:8890\n", "registrar: "},
		{"token", "server: attest.example\njoinToken: assay1.x\n", "joinToken: join token: want"},
		{"two tokens", good + "joinToken: " + testToken().String() + "\njoinTokenFile: /t\n", "joinToken, joinTokenFile"},
		{"client CA", good + "clientCA: /ca.crt\n", "clientCA: is for keylime"},
		{"id", good + "id: a/b\n", "id: agent id"},
		{"listen", good + "listen: 9002\n", "listen"},
		{"listen without port", good + "listen: 0.0.0.0\n", `listen: "0.0.0.0" is not HOST:PORT`},
		{"metrics", good + "metrics: here\n", `metrics: "here" is not HOST:PORT`},
		{"contact", good + "contact: {port: 65536}\n", "contact.port: 65536"},
		{"tpm", good + "tpm: ''\n", "tpm: no TPM is named"},
		{"ek", good + "ek: rsa1024\n", `ek: "rsa1024"`},
		{"ak", good + "ak: sm2\n", `ak: "sm2"`},
		{"state", good + "stateDir: ''\n", "stateDir: "},
		{"heartbeat", good + "heartbeat: 100ms\n", "heartbeat: 100ms"},
		{"heartbeat without unit", good + "heartbeat: 30\n", "heartbeat"},
		{"unknown key", good + "sever: x\n", `unknown key "sever"`},
		{"Keylime without registrar", "keylime: true\nca: /ca.crt\nclientCA: /ca.crt\n", "registrar: Keylime's registrar is not named"},
		{"Keylime without client CA", "keylime: true\nregistrar: http://r:8890\n", "clientCA: "},
		{"Keylime without CA", "keylime: true\nregistrar: r:8891\nclientCA: /ca.crt\n", "ca: "},
		{"Keylime with a server", keylime + "server: attest.example\n", "do not go with keylime"},
	} {
		t.Run(row.name, func(t *testing.T) {
			_, err := load(t, row.text)
			var mistakes *conf.Error
			if !errors.As(err, &mistakes) || len(mistakes.Mistakes) != 1 || !strings.Contains(mistakes.Mistakes[0], row.want) {
				t.Errorf("error %v, want one mistake with %q", err, row.want)
			}
		})
	}
}

func TestConfigEveryMistakeAtOnce(t *testing.T) {
	_, err := load(t, "id: a/b\nak: x\nheartbeat: 1h\n")
	var mistakes *conf.Error
	if !errors.As(err, &mistakes) || len(mistakes.Mistakes) != 5 {
		t.Errorf("error %v, want 5 mistakes: server, ca, id, ak, heartbeat", err)
	}
}

func TestConfigEnvironment(t *testing.T) {
	config, err := load(t, "server: a.example\nca: /ca.crt\n", "ASSAY_SERVER=b.example:1", "ASSAY_CONTACT_ADDRESS=10.0.0.1",
		"ASSAY_CONTACT_PORT=29002", "ASSAY_HEARTBEAT=5s", "ASSAY_USER=")
	if err != nil {
		t.Fatal(err)
	}
	want := DefaultConfig()
	want.Server, want.CA, want.Contact = "b.example:1", "/ca.crt", Contact{Address: "10.0.0.1", Port: 29002}
	want.Heartbeat, want.User = conf.Duration(5*time.Second), ""
	if diff := cmp.Diff(want, config); diff != "" {
		t.Error(diff)
	}
}

func TestConfigAddresses(t *testing.T) {
	for _, row := range []struct {
		server, registrar string
		port              int
		native, base      string
	}{
		{"a.example", "", 8891, "a.example:8443", "https://a.example:8891"},
		{"a.example:1", "", 2, "a.example:1", "https://a.example:2"},
		{"https://a.example:1/", "https://b.example", 2, "a.example:1", "https://b.example:8891"},
		{"10.0.0.1", "b.example:3", 2, "10.0.0.1:8443", "https://b.example:3"},
		{"[::1]", "", 2, "[::1]:8443", "https://[::1]:2"},
		{"::1", "", 2, "[::1]:8443", "https://[::1]:2"},
		{"", "http://k.example:8890/", 0, ":8443", "http://k.example:8890"},
	} {
		config := Config{Server: row.server, Registrar: row.registrar}
		if got := config.serverAddress(); got != row.native {
			t.Errorf("%q: server %q, want %q", row.server, got, row.native)
		}
		if got := config.registrarURL(row.port); got != row.base {
			t.Errorf("%q, %q: registrar %q, want %q", row.server, row.registrar, got, row.base)
		}
	}
}

func TestConfigSecrets(t *testing.T) {
	dir := t.TempDir()
	file := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	token := testToken()
	config := Config{CA: file("ca", "CA"), ClientCA: file("clients", "CLIENTS"), JoinTokenFile: file("token", token.String()+"\n")}
	got, err := config.readSecrets()
	if err != nil {
		t.Fatal(err)
	}
	if string(got.serverCA) != "CA" || string(got.clientCA) != "CLIENTS" || got.token.String() != token.String() {
		t.Errorf("secrets %+v", got)
	}
	empty := file("empty", "") // what follows would take it for a key that is not set
	for want, config := range map[string]Config{
		"no such file or directory (key ca)":       {CA: filepath.Join(dir, "none")},
		"no such file or directory (key clientCA)": {ClientCA: filepath.Join(dir, "none")},
		"key joinTokenFile: ":                      {JoinTokenFile: file("bad", "assay1.no")},
		"key joinToken: ":                          {JoinToken: conf.Secret("assay1.no")},
		"empty is empty (key ca)":                  {CA: empty},
		"empty is empty (key clientCA)":            {ClientCA: empty},
		"empty is empty (key joinTokenFile)":       {JoinTokenFile: empty},
	} {
		if _, err := config.readSecrets(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want %q", err, want)
		}
	}
}
