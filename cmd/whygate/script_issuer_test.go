package main

import (
	"bytes"
	"encoding/json"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/whygate/whygate/whytest/issuer"
)

// issuers are the OpenID providers of all scripts, by working directory.
var issuers sync.Map

func issuerOf(ts *testscript.TestScript) *issuer.Issuer {
	i, ok := issuers.Load(ts.Getenv("WORK"))
	if !ok {
		ts.Fatalf("no issuer has been started")
	}
	return i.(*issuer.Issuer)
}

// scriptIssuer starts an issuer and points the documents of the scenario at it, or changes what it does.
func scriptIssuer(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) == 1 {
		switch is := issuerOf(ts); args[0] {
		case "rotate":
			is.Rotate("RS256")
		case "down", "up":
			is.Down(args[0] == "down")
		case "revoke":
			is.Revoke(ts.Getenv("TOKEN"))
		default:
			ts.Fatalf("issuer: rotate, down, up or revoke")
		}
		return
	}
	is := issuer.New("")
	s := httptest.NewServer(is)
	ts.Defer(s.Close)
	is.URL = s.URL
	issuers.Store(ts.Getenv("WORK"), is)
	address := s.Listener.Addr().String()
	ts.Setenv("ISSUER", address)
	ts.Check(filepath.WalkDir(ts.Getenv("WORK"), func(name string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() || filepath.Ext(name) != ".yaml" {
			return err
		}
		b, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		return os.WriteFile(name, bytes.ReplaceAll(b, []byte("127.0.0.1:9100"), []byte(address)), 0o644)
	}))
}

// scriptToken has the issuer make a token with the usual claims, changed by NAME=VALUE: JSON or a text, for exp, nbf and
// iat a span from now, and nothing to take the claim out.
func scriptToken(ts *testscript.TestScript, neg bool, args []string) {
	is := issuerOf(ts)
	claims := map[string]any{}
	how := ""
	for _, a := range args[1:] {
		name, value, ok := strings.Cut(a, "=")
		if !ok {
			how = a
			continue
		}
		var v any = value
		if span, err := time.ParseDuration(value); err == nil && (name == "exp" || name == "nbf" || name == "iat") {
			v = time.Now().Add(span).Unix()
		} else if value == "" {
			v = nil
		} else if value[0] == '{' || value[0] == '[' {
			ts.Check(json.Unmarshal([]byte(value), &v))
		}
		claims[name] = v
	}
	payload, err := json.Marshal(is.Claims(claims))
	ts.Check(err)
	stranger := issuer.New(is.URL)
	var token string
	switch how {
	case "":
		token = is.Token(claims)
	case "opaque":
		token = is.Opaque(claims)
	case "forged": // with the name of the right key
		token = stranger.Token(claims)
	case "unpublished":
		stranger.Rotate("ES256")
		stranger.Rotate("ES256")
		token = stranger.Token(claims)
	case "hmac":
		token = issuer.SignHMAC([]byte("secret"), map[string]any{"alg": "HS256"}, payload)
	case "none":
		token = issuer.Encode([]byte(`{"alg":"none"}`)) + "." + issuer.Encode(payload) + "."
	default:
		ts.Fatalf("token: no %s", how)
	}
	ts.Setenv(args[0], token)
}
