package pinpoint

import (
	"regexp"
	"strings"
	"unicode"
	"unicode/utf8"
)

// quoteLength is how many characters of an answer or a line a clue shows.
const quoteLength = 240

// Secrets as strangers' logs and pages hold them: values of a query, credentials behind their scheme, tokens, and keys
// that are known by their form.
var (
	queryValue = regexp.MustCompile(`([?&][^=&\s"'<>#]{1,64}=)[^&\s"'<>#]+`)
	credential = regexp.MustCompile(`(?i)(^|[^\w‹])((?:authorization:\s*)?(?:bearer|basic|digest|negotiate)\s|(?:set-)?cookie:|authorization:|(?:api[-_]?key|token|password|passwd|secret|session(?:id)?)["']?\s*[=:])(\s*["']?)([^\s"',;<>‹]{8,})`)
	token      = regexp.MustCompile(`\beyJ[A-Za-z0-9_-]{8,}(?:\.[A-Za-z0-9_-]*){0,2}|\b(?:AKIA|ASIA)[A-Z0-9]{12,}|\b(?:sk|pk|ghp|gho|glpat|xox[abp])[-_][A-Za-z0-9_-]{12,}`)
)

// excerpt makes a text of a stranger fit to be shown: one line, short, without secrets, control
// characters, escapes of terminals, and characters that change the direction of text.
func excerpt(s string) string {
	s = s[:min(len(s), 16*quoteLength)]
	s = strings.ToValidUTF8(s, "\uFFFD")
	var b strings.Builder
	space := false
	for i := 0; i < len(s); {
		r, n := utf8.DecodeRuneInString(s[i:])
		if r == 0x1b {
			i += escape(s[i:])
			continue
		}
		i += n
		switch {
		case unicode.IsSpace(r):
			space = b.Len() > 0
			continue
		case unicode.IsControl(r), unicode.Is(unicode.Cf, r), unicode.Is(unicode.Co, r):
			continue
		}
		if space {
			b.WriteByte(' ')
			space = false
		}
		b.WriteRune(r)
	}
	s = token.ReplaceAllString(b.String(), "…")
	s = queryValue.ReplaceAllStringFunc(s, func(m string) string {
		name, value, _ := strings.Cut(m, "=")
		if strings.HasPrefix(value, opening) || value == "…" {
			return m
		}
		return name + "=…"
	})
	s = credential.ReplaceAllStringFunc(s, func(m string) string {
		p := credential.FindStringSubmatch(m)
		// "Basic authentication" is a word, not a credential.
		if !strings.ContainsAny(p[4], "0123456789+/=._-") && len(p[4]) < 20 && strings.HasSuffix(p[2], " ") {
			return m
		}
		return p[1] + p[2] + p[3] + "…"
	})
	if utf8.RuneCountInString(s) > quoteLength {
		runes := []rune(s)
		s = string(runes[:quoteLength-1]) + "…"
	}
	return s
}

// escape is the length of an escape sequence of a terminal (ECMA-48, section 5): CSI, OSC and the
// like up to their end, or ESC and one character.
func escape(s string) int {
	if len(s) < 2 {
		return len(s)
	}
	switch s[1] {
	case '[':
		for i := 2; i < len(s); i++ {
			if s[i] >= 0x40 && s[i] <= 0x7e {
				return i + 1
			}
		}
		return len(s)
	case ']', 'P', '^', '_', 'X':
		for i := 2; i < len(s); i++ {
			if s[i] == 0x07 {
				return i + 1
			}
			if s[i] == 0x1b && i+1 < len(s) && s[i+1] == '\\' {
				return i + 2
			}
		}
		return len(s)
	}
	return 2
}

// productNames are the products as people write them, where that is not the id.
var productNames = map[string]string{
	"python": "a Python program", "node": "a Node.js program", "java": "a Java program", "ruby": "a Ruby program", "php": "a PHP program", "dotnet": "a .NET program",
	"apache-httpd": "Apache httpd", "haproxy": "HAProxy", "envoy": "Envoy", "kong": "Kong", "apisix": "APISIX", "tyk": "Tyk", "traefik": "Traefik",
	"caddy": "Caddy", "iis": "IIS", "http-sys": "HTTP.sys", "tomcat": "Tomcat", "jetty": "Jetty", "litespeed": "LiteSpeed", "django": "Django",
	"django-rest-framework": "Django REST framework", "flask": "Flask", "flask-wtf": "Flask-WTF", "fastapi": "FastAPI", "rails": "Rails",
	"laravel": "Laravel", "spring": "Spring", "spring-security": "Spring Security", "spring-boot": "Spring Boot", "express": "Express",
	"go-net-http": "a Go server (net/http)", "aspnet-core": "ASP.NET Core", "php-fpm": "PHP-FPM", "modsecurity": "ModSecurity", "coraza": "Coraza",
	"cloudflare": "Cloudflare", "cloudflare-access": "Cloudflare Access", "cloudfront": "CloudFront", "aws-waf": "AWS WAF", "aws-alb": "AWS ALB",
	"aws-api-gateway": "AWS API Gateway", "aws-lambda-url": "an AWS Lambda function URL", "aws-bedrock": "AWS Bedrock", "aws": "AWS",
	"akamai": "Akamai", "fastly": "Fastly", "fastly-ngwaf": "Fastly Next-Gen WAF", "imperva": "Imperva", "sucuri": "Sucuri", "varnish": "Varnish",
	"squid": "Squid", "zscaler": "Zscaler", "azure-waf": "Azure WAF", "azure-storage": "Azure Storage", "azure-api-management": "Azure API Management",
	"azure-app-service": "Azure App Service", "azure-ai": "Azure AI", "google-apis": "a Google API", "google-frontend": "the Google front end",
	"google-iap": "Google IAP", "gcs": "Google Cloud Storage", "s3-compatible-store": "an S3 store", "s3-website": "an S3 website",
	"f5-big-ip-asm": "F5 BIG-IP ASM", "fortiweb": "FortiWeb", "citrix-netscaler": "NetScaler AppFirewall", "alibaba-cloud-waf": "Alibaba Cloud WAF",
	"tencent-cloud-waf": "Tencent Cloud WAF", "github-api": "the GitHub API", "gitlab": "GitLab", "openai": "OpenAI", "anthropic": "Anthropic",
	"wordpress": "WordPress", "wordfence": "Wordfence", "kubernetes": "Kubernetes", "elasticsearch": "Elasticsearch", "postgrest": "PostgREST",
	"jenkins": "Jenkins", "whygate": "Whygate", "apigee": "Apigee", "datadome": "DataDome", "human-security": "HUMAN (PerimeterX)", "anubis": "Anubis",
	"vercel": "Vercel", "vite": "Vite", "linkerd": "Linkerd", "apinto": "Apinto", "apipark": "APIPark", "starlette": "Starlette", "nestjs": "NestJS",
	"selinux": "SELinux", "apparmor": "AppArmor", "azure-front-door": "Azure Front Door", "phoenix": "Phoenix", "symfony": "Symfony",
}

// ProductName is a product as people write it.
func ProductName(id string) string {
	if n, ok := productNames[id]; ok {
		return n
	}
	return id
}
