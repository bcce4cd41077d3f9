"""What gives a language away: words and letters. A "-" before its name: PostgreSQL does not stem that language."""

# Words that nearly every paragraph has.
FREQUENT_WORDS = {
    "english": (
        "the of and to in is that it for as with was on are be this by not or from you have at an which can if will "
        "your we how what do does i when where my"
    ),
    "german": (
        "der die und das nicht ist ein eine zu den mit sich auf "
        "für dem von im des auch es werden aus wird oder sie als "
        "wie bei kann wenn nach noch einen ich wir dass du sind hat man nur so was"
    ),
    "french": (
        "le la les de des et est un une du en que qui dans pour pas vous il au sur avec ce plus par ne sont ou cette "
        "être nous se son mais comment je votre si aux ces"
    ),
    "spanish": (
        "el la los las de y que en un una es por con para se del no al lo como más su si pero este esta son está sin "
        "puede cómo o también hay ser tu cuando desde porque entonces cada te muy todo usar hacer"
    ),
    "portuguese": (
        "o a os as de e que do da em um uma para é com não se no na por dos das como mais mas ao ou você isso pelo seu "
        "sua são pode ser também está esse quando você então até cada usar fazer"
    ),
    "italian": (
        "il la di e che un una è per non con del della le "
        "i gli in si da come sono più al nel anche ma questo dei delle "
        "alla lo se può essere o cosa"
    ),
    "dutch": (
        "de het een en van is in dat te op zijn met voor niet aan er om ook als maar door je bij of uit wordt naar kan "
        "deze dit ik hoe wat"
    ),
    "swedish": (
        "och att det i en är som på av för den med till inte om ett har de kan var från eller vi du så här när ska jag "
        "man hur"
    ),
    "danish": (
        "og at det i en er som på af for den med til ikke om et har de kan var fra eller vi du så når skal jeg der "
        "hvordan man blev efter nogle meget bare noget"
    ),
    "norwegian": (
        "og å det i en er som på av for den med til ikke om et har de kan var fra eller vi du så når skal jeg hvordan "
        "man ble etter eit ikkje frå noen slik mye bare"
    ),
    "finnish": (
        "ja on ei se että oli hän mutta kun ovat myös tai joka jos niin sen voi kuin tämä ole jotka mitä vain olla "
        "miten en"
    ),
    "hungarian": "a az és hogy nem is egy ez van de meg csak ha vagy mint el még már azt volt lehet kell után hogyan",
    "romanian": (
        "și în de la nu este cu pe un o care din să pentru ca mai sunt sau dar fi se ale prin cele această cum"
    ),
    "turkish": (
        "ve bir bu için ile de da olarak olan gibi daha çok ne var değil veya kadar sonra ama her ise olduğu nasıl mi "
        "ya eğer"
    ),
    "catalan": (
        "el la els les de i que en un una és per amb no del al com més es aquest són però si seva també ser pot"
    ),
    "basque": "eta da ez bat du dira dute ere hau izan bere baina egin den edo duen zen nola",
    "irish": "agus an na a i is ar le do go ní sé bhí ag tá leis don mar conas",
    "indonesian": (
        "yang dan di dengan untuk tidak ini dari dalam itu akan pada adalah ke juga saya oleh atau bisa ada kami anda "
        "bagaimana"
    ),
    "lithuanian": "ir yra kad į su iš tai ne kaip bet buvo jis apie jau o gali tik už",
    "serbian": (
        "je i u na se da su za od koji to sa nije kao ali što biti kako и у је на се да су за од који то са није као "
        "али што како"
    ),
    "russian": (
        "и в не на что с как по это для из к а но или у от за так вы если его же бы то мы я он при все может вы можно "
        "только также которые есть быть этого этот было будет ещё"
    ),
    "arabic": "في من على إلى أن هذا التي عن ما لا هذه كان مع الذي هو أو كيف",
    "hindi": (
        "के है में की और से को का एक यह हैं पर नहीं भी कि तो इस कर आप लिए या जो ने हो कैसे इसे अगर जब तब होता था कुछ "
        "अपने साथ रहा बाद हम"
    ),
    "nepali": "र को मा छ लाई ले हो पनि छन् गर्न यो थियो भने तर कसरी गर्ने हुन्छ यस तपाईं",
    "yiddish": "די און איז דער צו אין פון פֿון דאָס מיט אַ נישט ער",
    "greek": "και το να του η της με που για είναι από ο τα στο δεν",
    "armenian": "և է որ եւ ի մեջ են այս համար հետ",
    "tamil": "ஒரு மற்றும் என்று இந்த அது என்ற உள்ள",
    "-polish": "i w na z się nie do że jest to jak o od za przez są po dla tym oraz ale czy jego",
    "-czech": "a v se na je že s z do to jako pro za by jsou ale nebo které jeho být",
    "-slovak": "a v sa na je že s z do to ako pre sú alebo ktoré aj",
    "-slovene": "in je na se da za so ki z ne pa v tudi kot",
    "-ukrainian": "і в не на що з як до та це для ви у або за від якщо ми він є може але",
    "-bulgarian": "и на да се от за не с по е в са като това",
    "-belarusian": "і ў не на што з як да гэта для або",
    "-macedonian": "и на да се од за не со во е како што",
    "-vietnamese": "và của là có trong cho không được một các với này đã để người",
    "-estonian": "ja on ei et see ka kui oli ta oma mis aga või",
    "-latvian": "un ir ar no uz kas par bet tas kā arī",
    "-persian": "و در به از که این را با است برای آن یک می",
    "-urdu": "کے میں کی ہے اور سے کا کو یہ نے پر",
    "-hebrew": "של את על לא הוא זה עם כי גם או אם יש",
    "-marathi": "आणि आहे या व हे ते मध्ये आहेत",
}
# Letters that few languages have.
RARE_LETTERS = {
    "ß": "german",
    "ñ¿¡": "spanish",
    "ãõ": "portuguese",
    "œêè": "french",
    "øæ": "danish norwegian",
    "å": "swedish danish norwegian",
    "ğış": "turkish",
    "șțăâ": "romanian",
    "őű": "hungarian",
    "łąęśżź": "-polish",
    "řěů": "-czech",
    "ėųįš": "lithuanian",
    "ļķņģ": "-latvian",
    "đơưạả": "-vietnamese",
    "іїєґ": "-ukrainian",
    "ыэё": "russian",
    "ў": "-belarusian",
    "ђћџљњј": "serbian",
    "ѓќѕ": "-macedonian",
    "پچژگ": "-persian",
    "ٹڈڑںے": "-urdu",
}
# Languages of which texts are seldom, so that it takes more to believe it.
SELDOM = frozenset({
    "catalan", "basque", "irish", "serbian", "yiddish", "nepali", "norwegian", "romanian", "lithuanian", "-slovene",
    "-slovak", "-macedonian", "-belarusian", "-marathi", "-latvian", "-estonian", "-bulgarian",
})  # fmt: skip
