package resource

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
)

// maxSecret is the largest secret, in bytes: a key in PEM form has a few thousand.
const maxSecret = 64 << 10

// SecretFault says why there is no secret where a SecretRef says.
type SecretFault struct {
	// Field of the SecretRef that it is about, "" for all of it.
	Field string
	// Message is what is wrong, Hint what to do about it. Neither holds anything of the secret.
	Message, Hint string
}

// Field is the one that says where the secret is.
func (r SecretRef) Field() string {
	if r.Env != "" {
		return "env"
	}
	return "file"
}

// Read reads the secret. resolve says where a file is that a document names.
func (r SecretRef) Read(resolve func(file string) string) ([]byte, *SecretFault) {
	switch {
	case (r.File == "") == (r.Env == ""):
		return nil, &SecretFault{"", "a secret is in a file or in an environment variable", "write file: or env:"}
	case r.Env != "":
		secret := os.Getenv(r.Env)
		if secret == "" {
			return nil, &SecretFault{"env", fmt.Sprintf("the environment variable %s is not set", r.Env), "set it where the gateway is started"}
		}
		return []byte(secret), nil
	}
	b, err := ReadFile(resolve(r.File), maxSecret)
	if err != nil {
		return nil, &SecretFault{"file", fmt.Sprintf("the file cannot be read: %v", err), "the path is relative to the document"}
	}
	if b = bytes.TrimRight(b, "\r\n"); len(b) == 0 {
		return nil, &SecretFault{"file", "the file is empty", "write the secret into it"}
	}
	return b, nil
}

// ReadFile reads a file of at most max bytes, and nothing that is no file: a pipe might never end. Its
// errors do not name the file, which stands beside them.
func ReadFile(path string, max int64) ([]byte, error) {
	info, err := os.Stat(path)
	switch {
	case err != nil:
		return nil, PlainFault(err)
	case !info.Mode().IsRegular():
		return nil, errors.New("it is no regular file")
	case info.Size() > max:
		return nil, fmt.Errorf("it has %v, more than %v", Size(info.Size()), Size(max))
	}
	file, err := os.Open(path)
	if err != nil {
		return nil, PlainFault(err)
	}
	defer file.Close()
	content := make([]byte, 0, info.Size()+1)
	for {
		n, err := file.Read(content[len(content):cap(content)])
		content = content[:len(content)+n]
		switch {
		case err == io.EOF:
			return content, nil
		case err != nil:
			return nil, PlainFault(err)
		case len(content) > int(info.Size()):
			return nil, errors.New("it grows while it is read")
		}
	}
}

// PlainFault leaves the path out of an error, which stands beside it.
func PlainFault(err error) error {
	var p *fs.PathError
	if errors.As(err, &p) {
		return p.Err
	}
	return err
}
