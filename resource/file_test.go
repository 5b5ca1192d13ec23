package resource

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestSecretRef(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("A_SECRET", "from the environment\n")
	t.Setenv("NO_SECRET", "")
	for name, content := range map[string]string{"good": "from a file\r\n", "empty": "\n", "large": strings.Repeat("x", maxSecret+1)} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		ref                  SecretRef
		secret, field, fault string
	}{
		{SecretRef{File: "good"}, "from a file", "", ""},
		{SecretRef{Env: "A_SECRET"}, "from the environment\n", "", ""},
		{SecretRef{}, "", "", "in a file or in an environment variable"},
		{SecretRef{File: "good", Env: "A_SECRET"}, "", "", "in a file or in an environment variable"},
		{SecretRef{Env: "NO_SECRET"}, "", "env", "NO_SECRET is not set"},
		{SecretRef{Env: "NOT_THERE"}, "", "env", "NOT_THERE is not set"},
		{SecretRef{File: "none"}, "", "file", "no such file"},
		{SecretRef{File: "."}, "", "file", "no regular file"},
		{SecretRef{File: "empty"}, "", "file", "the file is empty"},
		{SecretRef{File: "large"}, "", "file", "more than 64KiB"},
	} {
		secret, fault := c.ref.Read(func(file string) string { return filepath.Join(dir, file) })
		switch {
		case fault == nil:
			fault = &SecretFault{}
		case fault.Hint == "":
			t.Errorf("%+v: no hint", c.ref)
		}
		if string(secret) != c.secret || fault.Field != c.field || !strings.Contains(fault.Message, c.fault) || (c.fault == "") != (fault.Message == "") {
			t.Errorf("%+v: %q, %+v", c.ref, secret, fault)
		}
	}
}
