package input

import (
	"fmt"
	"slices"
	"strings"
	"sync"
)

// The options of curl 8.16 and before ("curl --help all"); a comma introduces the short form. What a
// request depends on is handled in command.set, the rest does not change the request.
const (
	plainOptions = `anyauth append,a basic ca-native cert-status compressed compressed-ssh create-dirs crlf digest disable,q
disable-eprt disable-epsv disallow-username-in-url doh-cert-status doh-insecure dump-ca-embed ech-optional fail,f
fail-early fail-with-body false-start follow form-escape ftp-create-dirs ftp-pasv ftp-pret ftp-skip-pasv-ip ftp-ssl-ccc
ftp-ssl-control get,G globoff,g haproxy-protocol head,I http0.9 http1.0,0 http1.1 http2 http2-prior-knowledge
http3 http3-only ignore-content-length include,i insecure,k ipv4,4 ipv6,6 junk-session-cookies,j list-only,l
location,L location-trusted mail-rcpt-allowfails manual,M metalink mptcp negotiate netrc,n netrc-optional next,:
alpn buffer,N clobber keepalive npn progress-meter sessionid ntlm ntlm-wb out-null parallel,Z
parallel-immediate path-as-is post301 post302 post303 progress-bar,# proxy-anyauth proxy-basic proxy-ca-native
proxy-digest proxy-http2 proxy-insecure proxy-negotiate proxy-ntlm proxy-ssl-allow-beast
proxy-ssl-auto-client-cert proxy-tlsv1 proxytunnel,p raw remote-header-name,J remote-name,O remote-name-all
remote-time,R remove-on-error retry-all-errors retry-connrefused sasl-ir show-error,S show-headers silent,s
skip-existing socks5-basic socks5-gssapi socks5-gssapi-nec ssl ssl-allow-beast ssl-auto-client-cert ssl-no-revoke
ssl-reqd ssl-revoke-best-effort sslv2,2 sslv3,3 styled-output suppress-connect-headers tcp-fastopen tcp-nodelay
tftp-no-options tls-earlydata tlsv1,1 tlsv1.0 tlsv1.1 tlsv1.2 tlsv1.3 tr-encoding trace-ids trace-time use-ascii,B
verbose,v version,V xattr`
	valuedOptions = `abstract-unix-socket alt-svc aws-sigv4 cacert capath cert,E cert-type ciphers config,K
connect-timeout connect-to continue-at,C cookie,b cookie-jar,c create-file-mode crlfile curves data,d data-ascii
data-binary data-raw data-urlencode delegation dns-interface dns-ipv4-addr dns-ipv6-addr dns-servers doh-url
dump-header,D ech egd-file engine etag-compare etag-save expect100-timeout form,F form-string ftp-account
ftp-alternative-to-user ftp-method ftp-port,P ftp-ssl-ccc-mode happy-eyeballs-timeout-ms haproxy-clientip header,H
help,h hostpubmd5 hostpubsha256 hsts interface ip-tos ipfs-gateway json keepalive-cnt keepalive-time key key-type
knownhosts krb libcurl limit-rate local-port login-options mail-auth mail-from mail-rcpt max-filesize max-redirs
max-time,m netrc-file noproxy oauth2-bearer output,o output-dir parallel-max parallel-max-host pass pinnedpubkey
preproxy proto proto-default proto-redir proxy,x proxy-cacert proxy-capath proxy-cert proxy-cert-type
proxy-ciphers proxy-crlfile proxy-header proxy-key proxy-key-type proxy-pass proxy-pinnedpubkey
proxy-service-name proxy-tls13-ciphers proxy-tlsauthtype proxy-tlspassword proxy-tlsuser proxy-user,U proxy1.0
pubkey quote,Q random-file range,r rate referer,e request,X request-target resolve retry retry-delay
retry-max-time sasl-authzid service-name sigalgs socks4 socks4a socks5 socks5-gssapi-service socks5-hostname
speed-limit,Y speed-time,y stderr telnet-option,t tftp-blksize time-cond,z tls-max tls13-ciphers tlsauthtype
tlspassword tlsuser trace trace-ascii trace-config unix-socket upload-file,T upload-flags url url-query user,u
user-agent,A variable vlan-priority write-out,w`
)

// option is one option of curl.
type option struct {
	long   string
	short  byte
	valued bool
}

var optionTable = sync.OnceValue(func() (t struct {
	long  map[string]option
	short map[byte]option
	names []string
}) {
	t.long, t.short = map[string]option{}, map[byte]option{}
	for i, list := range []string{plainOptions, valuedOptions} {
		for _, f := range strings.Fields(list) {
			o := option{valued: i == 1}
			var short string
			o.long, short, _ = strings.Cut(f, ",")
			if short != "" {
				o.short = short[0]
				t.short[o.short] = o
			}
			t.long[o.long] = o
			t.names = append(t.names, o.long)
		}
	}
	slices.Sort(t.names)
	return t
})

// Knows says that curl has a long option, written with its dashes, perhaps with a value behind =.
func Knows(arg string) bool {
	name, _, _ := strings.Cut(strings.TrimPrefix(arg, "--"), "=")
	_, _, err := longOption(name)
	return err == nil
}

// TakesValue says that an argument is an option of curl whose value is the next argument.
func TakesValue(arg string) bool {
	if name, ok := strings.CutPrefix(arg, "--"); ok {
		o, _, err := longOption(name)
		return err == nil && o.valued
	}
	if len(arg) < 2 || arg[0] != '-' {
		return false
	}
	for i := 1; i < len(arg); i++ { // -sSd VALUE
		if o := optionTable().short[arg[i]]; o.valued {
			return i == len(arg)-1
		}
	}
	return false
}

// longOption finds --name, --no-name and the beginnings of names that mean one option only.
func longOption(name string) (o option, off bool, err error) {
	t := optionTable()
	if o, ok := t.long[name]; ok {
		return o, false, nil
	}
	if rest, ok := strings.CutPrefix(name, "no-"); ok {
		if o, ok := t.long[rest]; ok && !o.valued {
			return o, true, nil
		}
	}
	if rest, ok := strings.CutPrefix(name, "expand-"); ok {
		if o, ok := t.long[rest]; ok && o.valued {
			return o, false, fmt.Errorf("curl would fill variables into --%s: write the value itself", clip(name, 40))
		}
	}
	var found []string
	if len(name) > 2 {
		for _, n := range t.names {
			if strings.HasPrefix(n, name) {
				found = append(found, n)
			}
		}
	}
	if len(found) == 1 {
		return t.long[found[0]], false, nil
	}
	shown := clip(printable(name), 40)
	if len(found) > 1 {
		return o, false, fmt.Errorf("--%s may mean --%s or --%s: write the option in full", shown, found[0], found[1])
	}
	return o, false, fmt.Errorf("curl has no option --%s: did you mean --%s?", shown, nearest(shown, t.names))
}

// nearest is the name at the smallest edit distance.
func nearest(name string, names []string) string {
	best, least := "", 1<<30
	for _, n := range names {
		if d := distance(name, n); d < least {
			best, least = n, d
		}
	}
	return best
}

// distance is that of Levenshtein; both are short.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost = 1 + min(diagonal, row[j], row[j+1])
			}
			diagonal, row[j+1] = row[j+1], cost
		}
	}
	return row[len(b)]
}
