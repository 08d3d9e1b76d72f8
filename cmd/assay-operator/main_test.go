package main

import (
	"bytes"
	"strings"
	"testing"

	"github.com/assay-project/assay/internal/cli"
)

func TestCommandLine(t *testing.T) {
	t.Setenv("KUBECONFIG", "/nonexistent/kubeconfig")
	for name, row := range map[string]struct {
		environment map[string]string
		args        []string
		code        int
		out, err    string
	}{
		"configuration":   {map[string]string{"ASSAY_NAMESPACE": "assay", "ASSAY_IMAGES_AGENT": "a:1"}, []string{"--check-config"}, 0, "agent: a:1", ""},
		"no namespace":    {nil, []string{"--check-config"}, 2, "", "ASSAY_NAMESPACE"},
		"a wrong level":   {map[string]string{"ASSAY_NAMESPACE": "assay", "ASSAY_LOGLEVEL": "loud"}, []string{"--check-config"}, 2, "", "logLevel"},
		"no API server":   {map[string]string{"ASSAY_NAMESPACE": "assay"}, nil, 1, "", "find the API server"},
		"no cluster":      {map[string]string{"ASSAY_NAMESPACE": "assay"}, []string{"cleanup"}, 1, "", "find the API server"},
		"no shares":       {nil, []string{"device-plugin", "--shares", "0"}, 2, "", "--shares 0"},
		"a path for name": {nil, []string{"device-plugin", "--device", "../mem"}, 2, "", "../mem"},
		"a wrong command": {nil, []string{"explode"}, 2, "", "unknown command"},
	} {
		t.Run(name, func(t *testing.T) {
			for key, value := range row.environment {
				t.Setenv(key, value)
			}
			var out, err bytes.Buffer
			cmd := root()
			cmd.SetOut(&out)
			if code := cli.Execute(t.Context(), cmd, row.args, &err); code != row.code || !strings.Contains(out.String(), row.out) || !strings.Contains(err.String(), row.err) {
				t.Errorf("code %d, printed %q and %q; want %d, %q, %q", code, out.String(), err.String(), row.code, row.out, row.err)
			}
		})
	}
}
